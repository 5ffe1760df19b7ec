"""Devices: rooflines, calibration and fleets."""

import json

import numpy as np
import pytest

from fedjax_comp.network.devices import (
    LAPTOP,
    NOTHING,
    PHONE,
    PHONE_TABLE,
    REFERENCE_PHONE,
    SERVER,
    Cost,
    calibrated,
    mixed,
    phones,
    read_phones,
    roofline_seconds,
    same,
    training_flops,
)


def test_the_slower_of_two_roofs_decides():
    ridge = PHONE.flops_per_second / PHONE.bytes_per_second
    for intensity in (ridge / 10, ridge, ridge * 10):
        seconds = roofline_seconds(Cost(intensity * 1e6, 1e6), PHONE)
        expected = max(
            intensity * 1e6 / PHONE.flops_per_second, 1e6 / PHONE.bytes_per_second
        )
        assert seconds == pytest.approx(expected)
    assert roofline_seconds(NOTHING, PHONE) == 0.0


@pytest.mark.parametrize("flops, bytes_", [(0.0, 0.0), (1e9, 1.0), (1.0, 1e9)])
def test_calibration_gives_back_what_was_measured(flops, bytes_):
    cost = calibrated(flops, bytes_, 0.3, LAPTOP)
    assert roofline_seconds(cost, LAPTOP) == pytest.approx(0.3)
    assert roofline_seconds(cost, PHONE) > 0.3 > roofline_seconds(cost, SERVER)


def test_training_flops_are_those_of_a_dense_layer():
    # y = x W: forward b (2 i o), and twice that for the gradients of x and W.
    i, o, b = 30, 20, 7
    assert training_flops(i * o, b) == 3 * 2 * b * i * o
    assert training_flops(i * o, b, flops_per_example=5.0) == 35.0


def test_fleets():
    assert set(same("server")(3, 0, None)) == {SERVER}
    fleet = mixed(laptop=1, phone=1)(2000, 0, None)
    share = np.mean([device.name == "laptop" for device in fleet])
    assert abs(share - 0.5) < 8 * 0.5 / np.sqrt(2000)
    speeds = [d.flops_per_second / 1e10 for d in fleet if d.name != "laptop"]
    assert np.log(speeds).std() == pytest.approx(0.6, abs=0.1)
    assert mixed()(20, 1, None) == mixed()(20, 1, None)
    for make in (lambda: same("toaster"), lambda: mixed(laptop=0, phone=0)):
        with pytest.raises(ValueError, match="Expected"):
            make()
    with pytest.raises(ValueError, match="Expected laptop"):
        mixed(laptop=-1.0)


def test_the_public_table(raw_data_dir):
    table = {device.name: device for device in read_phones(raw_data_dir / PHONE_TABLE)}
    assert 150 < len(table) < 333
    reference = table[REFERENCE_PHONE]
    assert reference.flops_per_second == PHONE.flops_per_second
    assert all(d.flops_per_second < 2 * PHONE.flops_per_second for d in table.values())
    drawn = phones()(50, 0, raw_data_dir)
    assert len({device.name for device in drawn}) > 25
    with pytest.raises(ValueError, match="mixed"):
        phones()(1, 0, raw_data_dir / "nowhere")


PHONE_ROW = {"Model": REFERENCE_PHONE, "CPU_F_AI_Score": "40", "Year": "2019"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "Expected a list of phones"),
        ("[3]", "Expected an object, got int"),
        ('[{"Model": "a"}]', "a field 'CPU_F_AI_Score'"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps([{**PHONE_ROW, "Year": 2019}]), "'Year' to be str, got int"),
        (
            json.dumps([{**PHONE_ROW, "Model": "other"}]),
            "Pixel 4' with a score",
        ),
        (json.dumps([{**PHONE_ROW, "CPU_F_AI_Score": "n/a"}]), "with a score"),
        (json.dumps([{**PHONE_ROW, "CPU_F_AI_Score": "9" * 5000}]), "with a score"),
    ],
)
def test_what_is_no_phone_table_is_refused(tmp_path, text, words):
    path = tmp_path / "phones.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_phones(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_are_the_first_number_of_a_text(tmp_path):
    rows = [PHONE_ROW, {**PHONE_ROW, "Model": "x", "CPU_F_AI_Score": "20.0.1 (b)"}]
    path = tmp_path / "phones.json"
    path.write_text(json.dumps(rows))
    speeds = [device.flops_per_second for device in read_phones(path)]
    assert speeds == [PHONE.flops_per_second, PHONE.flops_per_second / 2]
