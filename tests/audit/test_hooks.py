"""Audits of a run: what they count, and what they count as compiling."""

import dataclasses
import time

import numpy as np
import pytest

from experiments.fed_avg.run import main
from fedjax_comp.audit import hooks
from fedjax_comp.compress.audit import Audit
from fedjax_comp.run_directory import read_json
from tests.test_run import FLAGS


@dataclasses.dataclass
class Slow:
    """An auditor whose first message takes long, as compiling does."""

    sizes: list[int]

    def __call__(self, messages):
        if not self.sizes:
            time.sleep(0.3)
        self.sizes.append(int(np.sum(messages.spoke)))
        return Audit(self.sizes[-1], ())


@pytest.mark.thorough
def test_what_an_auditor_compiles_is_no_second_of_the_run(tmp_path, monkeypatch):
    made = []

    def make(link):
        del link
        made.append(Slow([]))
        return made[-1]

    monkeypatch.setattr(hooks, "make_auditor", make)
    started = time.perf_counter()
    main(
        [
            "",
            f"--workdir={tmp_path / 'run'}",
            *FLAGS,
            "--num_rounds=6",
            "--audit_every=2",
        ]
    )
    whole = time.perf_counter() - started
    summary = read_json(tmp_path / "run" / "summary.json")
    # One message of each kind for nothing, and then all.
    assert [slow.sizes[0] for slow in made] == [1, 1]
    rest = [slow.sizes[1:] for slow in made]
    assert min(map(min, rest)) >= 1
    assert summary["audited_messages"] == sum(map(sum, rest))
    assert summary["compile_seconds"] > 0.6
    assert summary["seconds_total"] + summary["compile_seconds"] < whole
