"""A run directory says what defined a run and refuses another one."""

import json

import pytest

from fedjax_comp.run_directory import (
    RunDirectoryError,
    append_row,
    begin_growth,
    begin_run,
    find_run,
    open_run,
    write_json,
    write_rows,
)

FLAGS = {"seed": 1, "num_rounds": 5, "workdir": "a", "uplink": "identity()"}


def test_opens_new_and_again(tmp_path):
    first = open_run(tmp_path / "run", "fed_avg", FLAGS)
    assert first.finished is None
    assert first.config["flags"] == FLAGS
    assert first.config["versions"]["jax"]
    again = open_run(tmp_path / "run", "fed_avg", {**FLAGS, "workdir": "b"})
    assert again.config == first.config


def test_names_every_flag_that_differs(tmp_path):
    open_run(tmp_path, "fed_avg", FLAGS)
    with pytest.raises(RunDirectoryError) as error:
        open_run(tmp_path, "fed_avg", {**FLAGS, "seed": 2, "num_rounds": 6})
    line = str(error.value)
    assert "--seed: 1 there, 2 now" in line
    assert "--num_rounds: 5 there, 6 now" in line
    assert "uplink" not in line
    assert "\n" not in line


def test_refuses_another_experiment_and_unreadable_files(tmp_path):
    open_run(tmp_path, "fed_avg", FLAGS)
    with pytest.raises(RunDirectoryError, match="'fed_avg', not 'gaia'"):
        open_run(tmp_path, "gaia", FLAGS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"config\.json cannot be read"):
        open_run(tmp_path, "fed_avg", FLAGS)


def test_refuses_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        open_run(tmp_path / "file" / "below", "fed_avg", FLAGS)


def test_a_summary_means_finished(tmp_path):
    directory = open_run(tmp_path, "fed_avg", FLAGS)
    write_json(directory.path / "summary.json", {"rounds": 5})
    assert open_run(tmp_path, "fed_avg", FLAGS).finished == {"rounds": 5}


def test_rows_are_whole_lines(tmp_path):
    directory = open_run(tmp_path, "fed_avg", FLAGS)
    write_rows(directory, [{"round": 0}])
    append_row(directory, {"round": 1})
    lines = directory.metrics_path.read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1]
    write_rows(directory, [{"round": 0, "loss": float("inf"), "of": [float("nan")]}])
    text = directory.metrics_path.read_text()
    assert text == '{"round": 0, "loss": null, "of": [null]}\n'


def test_a_flag_that_may_grow_takes_up_a_finished_run_again(tmp_path):
    def find(num_rounds, **free):
        return find_run(tmp_path, "a", {**FLAGS, "num_rounds": num_rounds}, **free)

    begin_run(find(5))
    write_json(tmp_path / "summary.json", {"rounds": 5})
    for fewer_or_free in ((4, {"growing": ("num_rounds",)}), (6, {})):
        with pytest.raises(RunDirectoryError, match="--num_rounds: 5 there"):
            find(fewer_or_free[0], **fewer_or_free[1])
    longer = find(6, growing=("num_rounds",))
    assert (longer.grown, longer.finished) == (True, None)
    # Looking writes nothing; beginning does.
    assert find(5).finished == {"rounds": 5}
    begin_run(longer)
    assert find(6).finished is None
    assert find(6).config["flags"] == {**FLAGS, "num_rounds": 6}


def test_what_has_finished_stays_until_a_grown_run_goes_on(tmp_path):
    def find(num_rounds):
        flags = {**FLAGS, "num_rounds": num_rounds}
        return find_run(tmp_path, "a", flags, growing=("num_rounds",))

    begin_run(find(5))
    write_json(tmp_path / "summary.json", {"rounds": 5})
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    longer = begin_run(find(6))
    # It may be that the checkpoint cannot be restored.
    assert find(5).finished == {"rounds": 5}
    assert not begin_growth(longer).grown
    assert find(6).config["flags"] == {**FLAGS, "num_rounds": 6}
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "checkpoints/5"])
def test_results_of_nobody_knows_what_are_refused(tmp_path, name):
    path = tmp_path / "run"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"holds results but no config\.json"):
        find_run(path, "a", FLAGS)
    (path / name).unlink()
    assert find_run(path, "a", FLAGS).finished is None


def test_a_damaged_summary_may_be_deleted(tmp_path):
    begin_run(find_run(tmp_path, "a", FLAGS))
    (tmp_path / "summary.json").write_text('{"format": 1, "rou')
    with pytest.raises(RunDirectoryError, match="delete it; the command of the run"):
        find_run(tmp_path, "a", FLAGS)


def test_another_command_that_began_in_between_is_noticed(tmp_path):
    mine = find_run(tmp_path, "a", FLAGS)
    begin_run(find_run(tmp_path, "a", {**FLAGS, "seed": 2}))
    with pytest.raises(RunDirectoryError, match="--seed: 2 there, 1 now"):
        begin_run(mine)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("number", [None, 0, 2, "1", True])
def test_another_format_is_refused_in_one_line(tmp_path, name, number):
    directory = open_run(tmp_path, "fed_avg", FLAGS)
    write_json(tmp_path / "summary.json", {"rounds": 5})
    value = json.loads((tmp_path / name).read_text())
    assert value["format"] == 1
    del value["format"]
    if number is not None:
        value = {"format": number, **value}
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(RunDirectoryError) as error:
        open_run(tmp_path, "fed_avg", FLAGS)
    line = str(error.value)
    assert str(directory.path / name) in line
    assert f"got {'none' if number is None else repr(number)}" in line
    assert "choose another --workdir" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "Expected an object, got a list"),
        ('{"format": 1, "a": ' + "[" * 100_000, "nested too deeply"),
        ('{"format": 1, "a": ' + "9" * 5_000 + "}", "an integer of 5000 digits"),
        ('{"format": ' + "9" * 5_000 + "}", "an integer of 5000 digits"),
        ("\xff", "cannot be read"),
        ('{"format": 1}', "Expected a field 'experiment', which is missing"),
    ],
)
def test_what_is_no_config_is_refused_in_one_line(tmp_path, text, words):
    open_run(tmp_path, "fed_avg", FLAGS)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunDirectoryError, match=words) as error:
        open_run(tmp_path, "fed_avg", FLAGS)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'} cannot be read: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("flags", [1], "'flags' to be an object, got a list"),
        ("versions", None, "'versions' to be an object, got null"),
        ("git_commit", 3, "'git_commit' to be str or null, got int"),
        ("experiment", {}, "'experiment' to be str, got an object"),
    ],
)
def test_fields_of_another_type_are_named(tmp_path, field, value, words):
    config = open_run(tmp_path, "fed_avg", FLAGS).config
    write_json(tmp_path / "config.json", {**config, field: value})
    with pytest.raises(RunDirectoryError, match=words):
        open_run(tmp_path, "fed_avg", FLAGS)


def test_finding_a_run_writes_nothing(tmp_path):
    found = find_run(tmp_path / "run", "fed_avg", FLAGS)
    assert not list(tmp_path.iterdir())
    begun = begin_run(found)
    assert begun._replace(lock=None) == found
    assert open_run(tmp_path / "run", "fed_avg", FLAGS) == begun
