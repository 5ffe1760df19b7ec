"""Traces against simulations that go through them packet by packet."""

import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_comp.network.trace_files import (
    parse_trace,
    read_trace_pairs,
    read_traces,
)
from fedjax_comp.network.traces import (
    mean_rate,
    packet_trace,
    rate_trace,
    rotated,
    scaled,
    transfer_end,
)


def simulated_end(durations, rates, start, packets):
    """Goes through the intervals one by one, as a reader would on paper."""
    now, i = 0.0, 0
    boundary = durations[0]
    while boundary <= start:
        i += 1
        boundary += durations[i % len(durations)]
    now = start
    for size in packets:
        left = 8.0 * size
        while left > 0:
            rate = rates[i % len(rates)]
            can = rate * (boundary - now)
            if can >= left * (1 - 1e-12):
                now, left = now + left / rate, 0.0
            else:
                left -= can
                now = boundary
                i += 1
                boundary += durations[i % len(durations)]
    return now


@given(
    st.lists(
        st.tuples(st.floats(0.1, 3.0), st.sampled_from([0.0, 50.0, 800.0, 9000.0])),
        min_size=1,
        max_size=6,
    ),
    st.floats(0.0, 30.0),
    st.lists(st.integers(1, 1500), min_size=1, max_size=5),
)
def test_integral_is_what_packets_in_turn_take(intervals, start, packets):
    durations, rates = np.array(intervals).T
    if not rates.any():
        rates = rates + 50.0
    trace = rate_trace(durations, rates)
    expected = simulated_end(durations, rates, start, packets)
    measured = transfer_end(trace, start, np.array(packets))
    assert measured == pytest.approx(expected, rel=1e-9, abs=1e-9)
    # One after another they take as long as together.
    now = start
    for size in packets:
        now = transfer_end(trace, now, np.array([size]))
    assert now == pytest.approx(measured, rel=1e-9)


@pytest.mark.parametrize("megabits", [1 / 3, 1 / 6, 1 / 9, 1.0])
@pytest.mark.parametrize("pause_first", [False, True])
def test_bits_that_end_with_a_period_end_before_the_pause(megabits, pause_first):
    """A second of sending beside one of silence; whole megabits are whole periods."""
    rates = np.array([megabits, 0.0])
    trace = rate_trace(np.ones(2), 1e6 * (rates[::-1] if pause_first else rates))
    for periods in range(round(1 / megabits), 1000, round(1 / megabits)):
        size = round(1e6 * megabits * periods / 8)
        end = transfer_end(trace, 0.0, np.array([size]))
        assert end == pytest.approx(2 * periods - (not pause_first), abs=1e-6)


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    st.integers(0, 20_000),
    st.integers(1, 50),
)
def test_packets_take_the_next_opportunities(milliseconds, start, packets):
    times = sorted(milliseconds)
    period = times[-1]
    following = [
        t + lap * period
        for lap in range(start // period, start // period + packets + 2)
        for t in times
        if t + lap * period > start
    ]
    # A quarter of a millisecond away from any: no rounding decides.
    begin = start / 1000 + 0.00025
    end = transfer_end(
        packet_trace(np.array(times) / 1000), begin, np.full(packets, 1500)
    )
    assert end == pytest.approx(following[packets - 1] / 1000, abs=1e-9)


@given(st.floats(0.0, 20.0), st.floats(0.0, 20.0), st.integers(1, 3000))
def test_a_rotated_trace_is_the_trace_from_there_on(shift, start, size):
    trace = rate_trace(np.array([1.0, 0.5, 2.0]), np.array([100.0, 0.0, 3000.0]))
    packets = np.array([size])
    seen = transfer_end(rotated(trace, shift), start, packets) + shift
    # At the edge of a pause the two differ by rounding; sizes are whole bytes.
    assert seen == pytest.approx(transfer_end(trace, shift + start, packets), abs=1e-6)
    assert mean_rate(rotated(trace, shift)) == pytest.approx(mean_rate(trace))


def test_rotated_and_scaled_packets():
    trace = packet_trace(np.array([0.1, 0.4, 1.0]))
    packets = np.array([1500, 1500])
    assert transfer_end(rotated(trace, 0.2), 0.0, packets) == pytest.approx(0.8)
    assert transfer_end(scaled(trace, 2.0), 0.0, packets) == pytest.approx(0.2)
    assert mean_rate(scaled(trace, 2.0)) == pytest.approx(2 * mean_rate(trace))


def test_files_and_archives(tmp_path):
    (tmp_path / "a.up").write_text("1\n2\n2\n")
    (tmp_path / "b.down").write_text("0 1\n1 2\n1 3\n2 0.5\n")
    (read,) = read_traces(tmp_path, name_contains=".down")
    # The line that repeats a time holds for none.
    assert read.bits.tolist() == [0.0, 2e6, 2.5e6]
    assert len(read_traces(tmp_path)) == 2
    for text, words in (
        ("1 2 3\n", "columns"),
        ("x\ny\n", "numbers"),
        ("1 2\n", "two"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_trace(text)
    with pytest.raises(ValueError, match="there is none"):
        read_traces(tmp_path, name_contains="zzz")
    with pytest.raises(ValueError, match="lognormal"):
        read_traces(tmp_path / "no.tar.gz")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got none"),
        ("\n \n", "got none"),
        ("0 1\n1\n", "got 1 in line 2"),
        ("0 1\n1 nan\n", "got '1 nan' in line 2"),
        ("0 1\ninf 1\n", "got 'inf 1' in line 2"),
        ("0 1\n" + "9" * 5000 + " 1\n", "got '99.* in line 2"),
        ("0 1\n5 1\n3 1\n", "got 3.0 behind 5.0 in line 3"),
        ("0 1\n1 1e303\n", ">= 0, finite"),
        ("0 1\n1e308 1e10\n", "finite amounts above 0, got 1e.308 s and inf bits"),
        ("0 1\n1 0\n", "not all zero"),
        ("0 1\n1 -1\n", "rates of a trace >= 0"),
        ("0 1\n0 1\n", "length >= 1"),
        ("1\n2\nnan\n", "got 'nan' in line 3"),
        ("5\n3\n", "got 3.0 behind 5.0 in line 2"),
        ("1\n1.5\n", "whole milliseconds.*got 1.5"),
        ("-3\n2\n", "opportunities up to"),
        ("0\n", "> 0"),
    ],
)
def test_what_is_no_trace_is_told_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        parse_trace(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_packets_at_times_that_are_not_finite_are_refused():
    for times in ([0.1, np.nan], [0.1, np.inf]):
        with pytest.raises(ValueError, match="finite"):
            packet_trace(np.array(times))


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\x1f\x8b\x08\x00", b"BZh9" + bytes(20)]
)
def test_damaged_archives_are_refused(tmp_path, content):
    path = tmp_path / "traces.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"traces\.tar\.gz cannot be read"):
        read_traces(path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"\xff1\n")
    with pytest.raises(ValueError, match="folder, a: Expected text in UTF-8"):
        read_traces(tmp_path / "folder")


def write_pairs(folder, names):
    """Each file's only opportunity is at its number of milliseconds."""
    for milliseconds, name in enumerate(names, 1):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{milliseconds}\n")


def pairs_of(folder, up, down, **options):
    pairs = read_trace_pairs(folder, up_contains=up, down_contains=down, **options)
    return [tuple(round(1000 * trace.period) for trace in pair) for pair in pairs]


def test_the_directions_of_a_link_have_its_name(tmp_path):
    # Sorted, "a.down" < "a.down2" but "a-2.up" < "a.up": places pair other links.
    write_pairs(tmp_path, ["a.up", "a.down", "a-2.up", "a-2.down", "b.up", "b.down"])
    assert pairs_of(tmp_path, ".up", ".down") == [(3, 4), (1, 2), (5, 6)]
    # Swapped, and as folders.
    assert pairs_of(tmp_path, ".down", ".up") == [(4, 3), (2, 1), (6, 5)]
    write_pairs(tmp_path, ["up/x", "down/x"])
    assert pairs_of(tmp_path, "up/", "down/") == [(1, 2)]


def test_a_direction_without_the_other_is_named(tmp_path):
    write_pairs(tmp_path, ["a.up", "a.down", "b.up", "c.down"])
    with pytest.raises(ValueError, match=r"each of b\.up, c\.down: .*without='b\.up'"):
        pairs_of(tmp_path, ".up", ".down")
    write_pairs(tmp_path, ["b.down"])
    assert pairs_of(tmp_path, ".up", ".down", without="c.down") == [(1, 2), (3, 1)]
    with pytest.raises(ValueError, match="up_contains=''"):
        pairs_of(tmp_path, "", ".down")
    with pytest.raises(ValueError, match="got one with both"):
        pairs_of(tmp_path, "a.", ".down")


@pytest.mark.thorough
def test_recordings(raw_data_dir):
    norway = read_traces(raw_data_dir / "traces/norway_hsdpa.tar.gz")
    assert len(norway) == 210
    rates = [mean_rate(trace) / 1e6 for trace in norway]
    assert min(rates) >= 0.008
    assert max(rates) <= 8.95
    # Of the folders test/ and train/, the smaller one.
    path = raw_data_dir / "traces/norway_hsdpa.tar.gz"
    assert len(read_traces(path, name_contains="train/")) == 68
    cellular = read_traces(
        raw_data_dir / "traces/us_cellular_mahimahi.tar.gz", name_contains=".down"
    )
    assert all(0.3 < mean_rate(trace) / 1e6 < 17 for trace in cellular)


def test_cellular_recordings_are_paired_by_their_names(raw_data_dir):
    path = raw_data_dir / "traces/us_cellular_mahimahi.tar.gz"
    directions = {"up_contains": ".up", "down_contains": ".down"}
    pairs = read_trace_pairs(path, **directions, without="TMobile-LTE-driving")
    links = [
        "ATT-LTE-driving-2016",
        "ATT-LTE-driving",
        "TMobile-LTE-short",
        "TMobile-UMTS-driving",
        "Verizon-EVDO-driving",
        "Verizon-LTE-short",
    ]
    # "-" is sorted before ".", so that the names with their endings are not in the
    # order of the links.
    with tarfile.open(path) as archive:
        for name, pair in zip(links, pairs, strict=True):
            for direction, trace in zip((".up", ".down"), pair, strict=True):
                lines = archive.extractfile(name + direction).read().split()
                assert len(trace.seconds) == len(lines)
                assert trace.period == int(lines[-1]) / 1000


@pytest.mark.parametrize(
    "durations, rates",
    [([], []), ([1.0], [0.0]), ([0.0], [1.0]), ([1.0], [-1.0]), ([1.0, 2.0], [1.0])],
)
def test_impossible_traces_are_refused(durations, rates):
    with pytest.raises(ValueError, match="Expected"):
        rate_trace(np.array(durations), np.array(rates))
