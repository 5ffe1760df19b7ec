"""What tests of experiments made of measurements share."""

import pytest


def mistake(main, capsys, flags):
    """The one line with which a command refuses its flags, after exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(["", *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def without_last_row(directory):
    """A run as it is when killed while its last row was written; what was whole."""
    (directory / "summary.json").unlink()
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    whole = "".join(lines[:-1])
    path.write_text(whole + lines[-1][:20])
    return whole
