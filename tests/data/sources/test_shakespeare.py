import gzip
import json

import numpy as np
import pytest

from fedjax_comp.data.sources import shakespeare


def write(folder, speeches):
    with gzip.open(folder / "speeches.jsonl.gz", "wt", encoding="utf-8") as file:
        for play, speaker, lines in speeches:
            speech = {"play": play, "speaker": speaker, "lines": lines}
            file.write(json.dumps(speech) + "\n")


def decode_text(symbols):
    """The text of `symbols`; padding is left out, an unknown character is `~`."""
    table = "\x00~" + shakespeare.VOCABULARY
    return "".join(table[s] for s in symbols if s != shakespeare.PADDING)


def spoken(split, role):
    """The text that a role's windows hold, put together again."""
    rows = split.group == role
    first = split.x[rows].reshape(-1)[:1]
    return decode_text(np.concatenate([first, split.y[rows].reshape(-1)]))


def test_roles_are_split_in_time(tmp_path):
    long = [f"line {i} of a long part" for i in range(40)]
    write(
        tmp_path,
        [
            ("a", "X", long[:30]),
            ("a", "Y", ["only one line, so no client"]),
            ("b", "X", ["first", "second"]),
            ("a", "X", long[30:]),
        ],
    )
    splits = shakespeare.read_raw(tmp_path)
    assert spoken(splits["train"], 0) == "".join(line + "\n" for line in long[:32])
    assert spoken(splits["test"], 0) == "".join(line + "\n" for line in long[32:])
    assert spoken(splits["train"], 1) == "first\n"
    assert spoken(splits["test"], 1) == "second\n"
    assert set(splits["train"].group) == {0, 1}
    for split in splits.values():
        assert split.x.shape == split.y.shape == (len(split.group), 80)
        assert split.x.dtype == np.uint8
        assert split.y.dtype == np.int32


@pytest.mark.parametrize("length", [0, 1, 2, 80, 81, 82, 200])
def test_windows_predict_every_symbol_but_the_first_once(length):
    symbols = (np.arange(length) % 78 + 2).astype(np.uint8)
    x, y = shakespeare.windows(symbols, 80)
    scored = y != shakespeare.PADDING
    np.testing.assert_array_equal(y[scored], symbols[1:])
    np.testing.assert_array_equal(x[scored], symbols[:-1])
    assert (x[~scored] == shakespeare.PADDING).all()


def test_symbols_are_those_of_a_model_with_eighty_outputs():
    assert shakespeare.SOURCE.num_classes == 80
    assert len(set(shakespeare.VOCABULARY)) == 78
    symbols = shakespeare.encode_text(shakespeare.VOCABULARY)
    np.testing.assert_array_equal(symbols, np.arange(2, 80))
    assert shakespeare.encode_text('"\x00é€').tolist() == [shakespeare.UNKNOWN] * 4


@pytest.mark.parametrize("line", ["not json", '{"play": "a"}', "[1]"])
def test_what_is_no_speech_is_refused(tmp_path, line):
    with gzip.open(tmp_path / "speeches.jsonl.gz", "wt") as file:
        file.write(line)
    with pytest.raises(ValueError, match="one speech a line"):
        shakespeare.read_raw(tmp_path)


def test_no_role_at_all_is_refused(tmp_path):
    write(tmp_path, [("a", "X", ["one line"])])
    with pytest.raises(ValueError, match="two lines or more"):
        shakespeare.read_raw(tmp_path)
