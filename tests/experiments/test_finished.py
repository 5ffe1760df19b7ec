"""What an earlier process has left is looked at before it is printed or drawn."""

import json

import pytest

from fedjax_comp.experiment.finish import print_summary, read_rows
from fedjax_comp.experiment.finished import COMPARED, MEASURED, check_finished
from fedjax_comp.run_directory import RunDirectory, RunDirectoryError

ROW = {
    "round": 1,
    "test_accuracy": 0.5,
    "test_loss": None,
    "train_loss": 2.0,
    "uplink_bytes": 5,
    "downlink_bytes": 7,
    "seconds": 0.5,
}
SUMMARY = {
    "test_accuracy": 0.5,
    "best_test_accuracy": 1,
    "rounds": 3,
    "uplink_bytes": 5,
    "downlink_bytes": 7,
    "dense_uplink_bytes": 50,
    "seconds_total": 1.5,
    "simulated_seconds": None,
    "joules": None,
    "runs": [{"name": "fed_avg", "reason": ""}],
    "claims": [{"name": "c", "target": 1, "measured": None, "holds": True}],
}


def test_a_summary_is_what_it_was(tmp_path):
    for summary in (SUMMARY, {**SUMMARY, "failures": ["none learned"]}):
        directory = RunDirectory(tmp_path, {}, summary)
        assert check_finished(directory, MEASURED) == summary
        assert check_finished(directory, COMPARED) == summary


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"test_accuracy": None}, "'test_accuracy' to be int or float, got null"),
        ({"uplink_bytes": 5.5}, "'uplink_bytes' to be int, got float"),
        ({"rounds": True}, "'rounds' to be int, got bool"),
        ({"runs": {}}, "'runs' to be a list, got an object"),
        ({"runs": ["fed_avg"]}, "Expected an object, got str"),
        ({"runs": [{"name": 3, "reason": ""}]}, "'name' to be str, got int"),
        ({"claims": [{"name": "c"}]}, "a field 'target', which is missing"),
        ({"failures": [3]}, "'failures' to be a list of texts"),
        ({"failures": "none"}, "'failures' to be a list of texts"),
    ],
)
def test_a_summary_of_another_shape_is_refused(tmp_path, changed, words):
    directory = RunDirectory(tmp_path, {}, {**SUMMARY, **changed})
    with pytest.raises(RunDirectoryError, match=words) as error:
        check_finished(directory, MEASURED)
    assert str(tmp_path / "summary.json") in str(error.value)
    assert "Delete it" in str(error.value)


def test_closing_lines_are_of_messages_and_of_what_was_dropped(tmp_path, capsys):
    directory = RunDirectory(tmp_path, {}, None)
    print_summary({**SUMMARY, "dropped_updates": 0, "updates_made": 40}, directory)
    told = capsys.readouterr().out
    assert "up 5 B (messages 10.0x smaller than dense), down 7 B" in told
    assert "dropped" not in told
    print_summary({**SUMMARY, "dropped_updates": 2, "updates_made": 40}, directory)
    assert "\n2 of 40 updates dropped\n" in capsys.readouterr().out
    print_summary({**SUMMARY, "dropped_updates": 2}, directory)
    assert "\n2 updates dropped\n" in capsys.readouterr().out


def test_rows_are_read_whole_or_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl cannot be read"):
        read_rows(tmp_path)
    line = json.dumps(ROW) + "\n"
    path.write_text(line + line + line[:20])  # killed while it was written
    assert read_rows(tmp_path) == [ROW, ROW]
    for text, words in (
        ("3", "line 2: Expected an object, got int"),
        ("", "line 2: Expecting value"),
        ("[" * 100_000, "line 2: nested too deeply"),
        (json.dumps({**ROW, "round": "1"}), "line 2: Expected 'round' to be int"),
        (json.dumps({"round": 1}), "line 2: Expected a field 'test_accuracy'"),
    ):
        path.write_text(line + text + "\n" + line)
        with pytest.raises(RunDirectoryError, match=words):
            read_rows(tmp_path)
