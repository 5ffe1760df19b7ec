"""Checkpoints give back what was saved, or say that they do not."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.by_rows import ByRows
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.metrics import Ledger
from fedjax_comp.row_file import NOTHING, RowFile
from fedjax_comp.run_directory import RunDirectoryError

STATE = {
    "key": jax.random.key(7),
    "half": jnp.arange(4, dtype=jnp.bfloat16),
    "nothing": jnp.zeros((0, 3)),
    "count": jnp.int32(3),
    "weights": jax.random.normal(jax.random.key(1), (64, 64)),
}
LEDGER = Ledger(rounds=9, uplink_bytes=2**40, losses=[0.5], observed={"x": 1.5})


def raised(state):
    return {**state, "weights": state["weights"] + 1}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for new, old in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert new.dtype == old.dtype
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
            new, old = jax.random.key_data(new), jax.random.key_data(old)
        np.testing.assert_array_equal(new, old)


@pytest.fixture
def two(tmp_path):
    """A run directory with checkpoints of rounds 4 and 9, and two rows by then."""
    with Checkpoints(tmp_path) as checkpoints, RowFile(tmp_path / "metrics.jsonl") as f:
        f.append({"round": 0})
        early = Ledger(rounds=4, rows=[{"round": 0}])
        checkpoints.save(STATE, early, f.mark())
        f.append({"round": 9})
        late = Ledger(**{**vars(LEDGER), "rows": [{"round": 0}, {"round": 9}]})
        checkpoints.save(raised(STATE), late, f.mark())
    return tmp_path, early, late


def test_state_ledger_and_rows_come_back(two):
    path, _, late = two
    with Checkpoints(path) as checkpoints:
        state, ledger, mark = checkpoints.restore(STATE)
    assert_same(state, raised(STATE))
    assert ledger == late
    assert mark.size == (path / "metrics.jsonl").stat().st_size
    # The rows are in their file alone.
    saved = path / "checkpoints" / "9" / "ledger" / "metadata"
    assert '"round"' not in saved.read_text()


def test_no_checkpoint_is_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(STATE) is None


def damage(path, numbers):
    """Flips one bit of a file, anywhere in it."""
    text = bytearray(path.read_bytes())
    text[numbers.randrange(len(text))] ^= 1 << numbers.randrange(8)
    path.write_bytes(bytes(text))


def test_arrays_that_no_process_has_all_of_come_back_either_way(tmp_path, capsys):
    many = jnp.arange(12.0).reshape(6, 2)
    by_rows = ByRows((6, 2), np.dtype(np.float32), lambda b, e: np.asarray(many[b:e]))
    whole = {**STATE, "zz": many}  # the last one, as clients are
    apart = {**STATE, "zz": by_rows}
    with Checkpoints(tmp_path) as checkpoints, RowFile(tmp_path / "metrics.jsonl") as f:
        checkpoints.save(whole, Ledger(rounds=3), f.mark())
        for rounds in (4, 9):
            checkpoints.save(apart, Ledger(rounds=rounds), f.mark())
    files = sorted(tmp_path.glob("checkpoints-rows/*/*"))
    assert [file.parent.name for file in files] == ["4", "9"]
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(whole).state, whole)
        found = checkpoints.restore(apart).state["zz"]
        assert isinstance(found, ByRows)
        np.testing.assert_array_equal(found.whole(), many)
    damage(files[-1], random.Random(0))
    with Checkpoints(tmp_path) as checkpoints:
        state, ledger, _ = checkpoints.restore(whole)
        assert ledger.rounds == 4
        assert_same(state, whole)
        assert "9 is damaged: the SHA-256 of" in capsys.readouterr().err
        checkpoints.save(whole, Ledger(rounds=9), NOTHING)
    # Those of a checkpoint that is there alone are kept.
    assert [p.name for p in (tmp_path / "checkpoints-rows").iterdir()] == ["4"]


@pytest.mark.thorough
def test_a_flipped_bit_is_never_restored_as_other_numbers(two, tmp_path, capsys):
    path, early, late = two
    numbers = random.Random(1)
    newest = path / "checkpoints" / "9"
    files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    fallen_back = 0
    sizes = [file.stat().st_size for file in files]
    for i, file in enumerate([*files, *numbers.choices(files, sizes, k=6)]):
        copy = tmp_path / f"copy{i}"
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("copy*"))
        damage(copy / file.relative_to(path), numbers)
        with Checkpoints(copy) as checkpoints:
            state, ledger, _ = checkpoints.restore(STATE)
            told = capsys.readouterr().err
            if ledger == late:
                # What was hit says nothing of the state, and nothing was lost.
                assert_same(state, raised(STATE))
                assert not told
                continue
            fallen_back += 1
            assert_same(state, STATE)
            assert ledger == early
            assert "checkpoint 9 is damaged" in told
            assert "round 4 is resumed instead" in told
            assert (copy / "checkpoints-damaged" / "9").is_dir()
            # The round that was lost can be saved again.
            checkpoints.save(raised(STATE), late, NOTHING)
            assert (copy / "checkpoints" / "9").is_dir()
        shutil.rmtree(copy)
    assert fallen_back >= 4


def test_without_a_sound_one_the_run_is_refused(two, capsys):
    path, *_ = two
    for file in path.glob("checkpoints/*/ledger/metadata"):
        file.write_text("[]")
    with Checkpoints(path) as checkpoints, pytest.raises(RunDirectoryError) as error:
        checkpoints.restore(STATE)
    assert "delete that folder" in str(error.value)
    told = capsys.readouterr().err
    assert "checkpoint 9 is damaged" in told
    assert "checkpoint 4 is damaged" in told
    assert len(list(path.glob("checkpoints/*/ledger"))) == 2


def test_rows_that_were_changed_since_make_the_one_before_count(two, capsys):
    path, early, _ = two
    rows = path / "metrics.jsonl"
    rows.write_text(rows.read_text().replace('"round": 9', '"round": 8'))
    with Checkpoints(path) as checkpoints:
        _, ledger, _ = checkpoints.restore(STATE)
    assert ledger == early
    assert "metrics.jsonl has been changed since" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [False, True])
def test_rows_that_are_lost_are_to_be_restored(two, damaged, capsys):
    path, *_ = two
    rows = path / "metrics.jsonl"
    text = rows.read_text()
    rows.write_text(text[text.index("\n") + 1 :])
    if damaged:
        (path / "checkpoints" / "9" / "ledger" / "metadata").write_text("[]")
    with Checkpoints(path) as checkpoints:
        with pytest.raises(RunDirectoryError, match="changed since: restore") as error:
            checkpoints.restore(STATE)
        assert str(rows) in str(error.value)
        assert "damaged" not in str(error.value)
        assert "checkpoint 4 cannot be used" in capsys.readouterr().err
        rows.write_text(text)
        assert checkpoints.restore(STATE).ledger.rounds == (4 if damaged else 9)


@pytest.mark.parametrize("number", [None, 0, 1])
def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch, number):
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr("fedjax_comp.checkpoint.FORMAT", number)
            checkpoints.save(STATE, LEDGER, NOTHING)
        # One of other leaves, as an older version may have.
        with pytest.raises(RunDirectoryError) as error:
            checkpoints.restore({**STATE, "y": jnp.zeros(2)})
    line = str(error.value)
    assert str(tmp_path / "checkpoints" / "9") in line
    assert f"got {'none' if number is None else number}" in line
    assert "--workdir" in line


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "x": jnp.zeros(2)},
        {**STATE, "count": jnp.uint32(3)},
        {**STATE, "weights": jnp.zeros((4, 16))},
        {name: x for name, x in STATE.items() if name != "weights"},
    ],
)
def test_the_state_of_another_program_is_refused(two, other, capsys):
    path, *_ = two
    with (
        Checkpoints(path) as checkpoints,
        pytest.raises(RunDirectoryError, match="state of another program"),
    ):
        checkpoints.restore(other)
    # It is sound: nothing is put aside.
    assert not capsys.readouterr().err
    assert not (path / "checkpoints-damaged").exists()
