"""Run directories as runs leave them, without having run."""

import json

from fedjax_comp.run_directory import write_json


def row(number, accuracy, up, down=0, **more):
    return {
        "round": number,
        "test_accuracy": accuracy,
        "test_loss": 1 - accuracy,
        "train_loss": None,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "seconds": 0.1 * number,
        **more,
    }


def write_run(path, rows, *, finished=True, commit="c0", experiment="fed_avg", **flags):
    flags = {"seed": 0, "num_rounds": 9, "uplink": "identity()", **flags}
    path.mkdir(parents=True)
    config = {
        "experiment": experiment,
        "flags": {"workdir": str(path), **flags},
        "seed": flags["seed"],
        "git_commit": commit,
    }
    write_json(path / "config.json", config)
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    (path / "metrics.jsonl").write_text(lines)
    if finished:
        write_json(path / "summary.json", {"runs": [], "claims": [], "failures": []})
    return path
