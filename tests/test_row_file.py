"""Rows that are appended, and what a mark says of them."""

import hashlib

import pytest

from fedjax_comp.row_file import NOTHING, Mark, RowFile, read_marked
from fedjax_comp.run_directory import RunDirectoryError


def test_what_stands_behind_the_mark_is_cut_off(tmp_path):
    path = tmp_path / "rows"
    with RowFile(path) as rows:
        assert rows.mark() == NOTHING
        rows.append({"round": 0})
        mark = rows.mark()
        rows.append({"round": 1})
    assert mark == Mark(13, hashlib.sha256(b'{"round": 0}\n').hexdigest())
    path.write_text(path.read_text() + '{"rou')
    assert read_marked(path, mark) == [{"round": 0}]
    with RowFile(path, mark) as rows:
        rows.append({"round": 2, "loss": float("nan")})
        # Readers see it at once.
        assert path.read_text() == '{"round": 0}\n{"round": 2, "loss": null}\n'
        again = rows.mark()
    assert read_marked(path, again) == [{"round": 0}, {"round": 2, "loss": None}]
    with RowFile(path):
        assert path.read_text() == ""


@pytest.mark.parametrize("text", [None, "", '{"round": 7}\n', '{"round": 0}'])
def test_a_file_that_is_no_longer_what_it_was_is_refused(tmp_path, text):
    path = tmp_path / "rows"
    with RowFile(path) as rows:
        rows.append({"round": 0})
        mark = rows.mark()
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(RunDirectoryError, match="has been changed since"):
        read_marked(path, mark)
