"""The experiment: its measurements against oracles, and what it leaves behind."""

import csv
import html
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.rate_distortion import limits, measure
from experiments.rate_distortion.claims import GOALS, make_claims
from experiments.rate_distortion.flags import define
from experiments.rate_distortion.models import ERRORS, MODELS
from experiments.rate_distortion.run import COLUMNS, main
from experiments.rate_distortion.sources import DRAWN, Source, drawn
from experiments.rate_distortion.table import TABLE, parse_entry, to_text
from fedjax_comp.base import Compressor, LinkState
from fedjax_comp.experiment.expressions import build
from fedjax_comp.wire.fields import Raw
from tests.experiments.small import read_runs


def gaussian_source(num_clients, n):
    keys = jax.random.split(jax.random.key(0), num_clients)
    return Source("gaussian", [DRAWN["gaussian"](key, n) for key in keys])


def distorted(shift, noise=0.0, gain=1.0):
    """Decodes `gain x + shift + noise z` with fresh z, sending x as it is."""

    def decode(context, payload, receiver):
        x = payload.values
        z = jax.random.normal(context.client_key, x.shape)
        return gain * x + shift + noise * z, receiver

    return Compressor(
        init=lambda like: LinkState((), ()),
        encode=lambda context, tree, sender: (Raw(tree), sender),
        decode=decode,
    )


def test_random_k_has_the_error_of_its_theorem():
    """`n / k - 1`, a tenth of it for the mean of ten, 32 bits for each kept."""
    n, clients, trials = 1 << 12, 10, 8
    measured = measure.measure(
        build("compressor", "random_k(0.25)"),
        gaussian_source(clients, n),
        jax.random.key(1),
        num_trials=trials,
    )
    # The norm of a random quarter of n squares: relative deviation sqrt(2 * 3 / n) of
    # each message's error, six of them for the mean of 80.
    tolerance = 6 * 3 * math.sqrt(6 / n / (clients * trials)) / 3
    assert measured.vnmse == pytest.approx(3, rel=tolerance)
    assert measured.nmse == pytest.approx(3 / clients, rel=0.1)
    # What is kept has the right sign and size, so that only the norm of it is lost.
    assert measured.vnmse_rescaled == pytest.approx(3, rel=tolerance)
    assert measured.rate_bits == 8.0
    assert measured.n == n
    assert (measured.messages, measured.written) == (80, 10)
    assert measured.bias_noise == pytest.approx(math.sqrt(measured.vnmse / trials))
    assert measured.bias == pytest.approx(measured.bias_noise, rel=0.05)
    assert abs(measured.bias_score) < 12
    times = measured.encode_seconds, measured.decode_seconds, measured.pack_seconds
    assert min(times) > 0


def test_a_bias_is_found_under_noise_that_hides_it():
    """A bias of 4 % of the noise's power is many standard errors.

    `<e_s, e_t> / ||x||^2` deviates by `1 / sqrt(n)`, the mean of its 6 pairs and 10
    clients by `1 / sqrt(60 n)`, a fortieth of that bias.
    """
    source = gaussian_source(10, 1 << 14)
    key = jax.random.key(2)
    noisy = measure.measure(distorted(0.0, noise=1.0), source, key, num_trials=4)
    assert abs(noisy.bias_score) < 12
    biased = measure.measure(distorted(0.2, noise=1.0), source, key, num_trials=4)
    assert biased.bias_score > 12
    sure = measure.measure(distorted(0.0, gain=0.5), source, key, num_trials=2)
    assert sure.vnmse == pytest.approx(0.25)
    assert sure.bias == pytest.approx(0.5)
    assert sure.vnmse_rescaled == pytest.approx(0, abs=1e-6)
    assert sure.bias_noise == pytest.approx(0.5 / math.sqrt(2))


def test_what_is_not_finite_is_an_error():
    with pytest.raises(measure.MeasurementError, match="not finite"):
        measure.measure(
            distorted(math.nan),
            gaussian_source(1, 8),
            jax.random.key(0),
            num_trials=2,
        )


def test_drawn_sources_are_what_they_are_called():
    values = define()
    values(["", "--dimension=100000", "--num_clients=2"])
    n = values.dimension
    for name, variance, mean_log in (
        ("gaussian", 1.0, None),
        ("lognormal", math.e**2, 0.0),
    ):
        first, second = (np.asarray(x, np.float64) for x in drawn(name, values).vectors)
        assert first.shape == (n,)
        # Means within six standard errors, and no client has another's vector.
        assert abs(first.mean()) < 6 * math.sqrt(variance / n)
        assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(n)
        if mean_log is not None:
            logs = np.log(np.abs(first))
            assert abs(logs.mean() - mean_log) < 6 / math.sqrt(n)
            assert abs(logs.var() - 1) < 6 * math.sqrt(2 / n)


def test_limits():
    """The two classes: one is the other, scaled to be unbiased."""
    for rate in (0.1, 1.0, 2.5, 8.0):
        d = limits.least_error(rate, unbiased=False)
        assert limits.least_error(rate, unbiased=True) == pytest.approx(d / (1 - d))
        for unbiased in (True, False):
            least = limits.least_error(rate, unbiased=unbiased)
            gap = limits.gap_in_bits(rate + 0.25, least, unbiased=unbiased)
            assert gap == pytest.approx(0.25)
    assert limits.least_error(0.0, unbiased=True) == math.inf
    assert limits.gap_in_bits(1.0, 0.0, unbiased=True) == -math.inf
    for rate, error in limits.ECSQ.items():
        assert limits.ecsq_error(rate) == pytest.approx(error)
        assert error > limits.least_error(rate, unbiased=True)


def test_every_line_of_the_table_can_be_said_as_a_flag():
    texts = [to_text(entry) for entry in TABLE]
    assert len(set(texts)) == len(texts)
    for entry, text in zip(TABLE, texts, strict=True):
        assert parse_entry(text) == entry._replace(quick=False)
    assert any(entry.quick for entry in TABLE)
    assert {goal.family for goal in GOALS} <= {entry.family for entry in TABLE}


def fake_row(**changes):
    return {
        "compressor": "x",
        "family": "x",
        "source": "gaussian",
        "unbiased": True,
        "rate_bits": 1.0,
        "vnmse": 0.5,
        "bias_score": 0.0,
        "n": 1 << 20,
        "messages": 100,
        **changes,
    }


def test_claims_hold_and_fail_as_they_should():
    goal = GOALS[0]
    near = {"family": goal.family, "rate_bits": goal.rate_bits + 0.001}
    for vnmse, holds in ((goal.vnmse * 0.99, True), (goal.vnmse * 1.01, False)):
        rows = [fake_row(**near, vnmse=vnmse)]
        (made,) = [c for c in make_claims(rows) if goal.family in c["name"]]
        assert made["holds"] is holds
    assert make_claims([]) == []
    assert make_claims([fake_row(bias_score=3.0)])[0]["holds"]
    assert not make_claims([fake_row(bias_score=30.0)])[0]["holds"]
    # One that declares a bias may have one, and few draws are no evidence.
    assert not any(
        "largest bias" in one["name"]
        for row in (
            fake_row(bias_score=30.0, unbiased=False),
            fake_row(bias_score=None),
        )
        for one in make_claims([row])
    )
    few = make_claims([fake_row(**near, messages=1)])
    assert not any(goal.family in claim["name"] for claim in few)


SMALL = (
    "--source=gaussian",
    "--dimension=4096",
    "--num_clients=3",
    "--num_trials=2",
    "--noprogress",
)


@pytest.mark.slow
def test_the_run_directory_and_resuming(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *SMALL,
        "--source=digits_mlp",
        "--update_rounds=1",
        "--compressor=sign: biased: scaled_sign()",
        "--compressor=random-k: unbiased: flattened(random_k(0.25))",
        # Valid by itself, and refused for what it is given: its row is lost, no other.
        "--compressor=wrong: biased: chain(scaled_sign(), top_k(0.1))",
    ]
    main(["rate_distortion", *flags])
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == (
        "name,compressor,family,source,unbiased,rate_bits,vnmse,vnmse_rescaled,bias,"
        "limit,gap_bits,encode_seconds,decode_seconds,pack_seconds,nmse,bias_noise,"
        "bias_score,messages,written,n,reason"
    )
    limited = [row for row in table if row["family"].startswith("limit of")]
    assert {row["source"] for row in limited} == {"digits_mlp"}
    assert len(limited) == len(MODELS) * len(ERRORS)
    table = [row for row in table if row not in limited]
    table, failed = table[:4], table[4:]
    assert [(row["compressor"], row["source"]) for row in table] == [
        (expression, source)
        for source in ("gaussian", "digits_mlp")
        for expression in ("scaled_sign()", "flattened(random_k(0.25))")
    ]
    assert [row["name"] for row in table] == [
        f"{row['source']}: {row['compressor']}" for row in table
    ]
    # One bit each and a scale of 32 for the one leaf.
    assert float(table[0]["rate_bits"]) == pytest.approx(1 + 32 / 4096, rel=1e-5)
    assert float(table[0]["limit"]) == pytest.approx(4 ** -(1 + 32 / 4096), rel=1e-5)
    # 1 - 2 / pi, Karimireddy et al.'s scale on Gaussian coordinates.
    assert float(table[0]["vnmse"]) == pytest.approx(1 - 2 / math.pi, rel=0.1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert read_runs(tmp_path).keys() == {
        row["name"] for row in [*table, *limited, *failed]
    }
    lost = [row for row in summary["runs"] if row["reason"]]
    assert [one["name"].partition(":")[0] for one in lost] == ["gaussian", "digits_mlp"]
    assert [one["reason"] for one in lost] == [one["reason"] for one in failed]
    assert all("\n" not in one["reason"] for one in lost)
    assert summary["sources"] == ["gaussian", "digits_mlp"]
    assert summary["claims"][0] == {
        "name": "measurements that failed",
        "target": 0,
        "measured": 2,
        "holds": False,
        "bound": "at_most",
    }
    report = (tmp_path / "report.html").read_text()
    assert html.escape(lost[0]["reason"]) in report
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    assert report.count("data:image/png") == 4

    capsys.readouterr()
    main(["rate_distortion", *flags[:-1]])
    assert "nothing was changed" in capsys.readouterr().out

    # Killed while its last row was written: what is whole is not measured again.
    (tmp_path / "summary.json").unlink()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(rows[:3]) + rows[3][:20])
    main(["rate_distortion", *flags[:-1]])
    again = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert again[:3] == rows[:3]
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        resumed = list(csv.DictReader(file))
    assert not any(row["reason"] for row in resumed)
    for row, other in zip(table + limited, resumed, strict=True):
        same = [name for name in COLUMNS if not name.endswith("seconds")]
        assert [row[name] for name in same] == [other[name] for name in same]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--compressor=scaled_sign()", "FAMILY: unbiased|biased: EXPRESSION"),
        (
            "--compressor=a: perhaps: scaled_sign()",
            "FAMILY: unbiased|biased: EXPRESSION",
        ),
        ("--compressor=a: biased: scaled_sgin()", "did you mean 'scaled_sign'"),
        ("--compressor=a: biased: rans()", "makes no Compressor"),
        ("--source=gausian", "gausian"),
        ("--dimension=1", "dimension"),
        ("--num_trials=1", "num_trials"),
        ("extra", "extra"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["rate_distortion", f"--workdir={tmp_path}", *SMALL, flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


def test_the_same_expression_twice_is_a_mistake(tmp_path, capsys):
    twice = [
        "--compressor=a: biased: scaled_sign()",
        "--compressor=b: biased: scaled_sign()",
    ]
    with pytest.raises(SystemExit):
        main(["rate_distortion", f"--workdir={tmp_path}", *SMALL, *twice])
    assert "twice" in capsys.readouterr().err


def test_default_sources_fall_back_on_digits(tmp_path, capsys, monkeypatch):
    """Without the files a default run says what stands in; one by hand is refused."""
    from experiments.rate_distortion import sources
    from fedjax_comp.data import DataUnavailable

    def load(dataset, **where):
        if dataset != "digits":
            raise DataUnavailable(f"no {dataset}")

    monkeypatch.setattr(sources, "load", load)
    values = define()
    values(["", "--num_clients=2", "--dimension=8"])
    names = sources.source_names(values, tmp_path)
    assert names == ["gaussian", "lognormal", "digits_mlp"]
    assert "stands in" in capsys.readouterr().out
    by_hand = define()
    by_hand(["", "--source=mnist_cnn"])
    with pytest.raises(ValueError, match="no mnist"):
        sources.source_names(by_hand, tmp_path)
    # What has been recorded needs its data no more, and is trained once.
    trained = []

    def train(name, values):
        trained.append(name)
        return {"w": jnp.arange(2.0 * 3).reshape(2, 3)}

    monkeypatch.setattr(sources, "train", train)
    first, again = (sources.make_source("mnist_cnn", values, tmp_path) for _ in "ab")
    assert trained == ["mnist_cnn"]
    assert first.name == again.name == "mnist_cnn"
    for x, y in zip(first.vectors, again.vectors, strict=True):
        np.testing.assert_array_equal(x["w"], y["w"])
    assert sources.source_names(by_hand, tmp_path) == ["mnist_cnn"]
