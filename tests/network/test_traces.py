"""Traces against simulations that go through them packet by packet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_comp.network.trace_files import parse_trace, read_traces
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


def test_recordings(raw_data_dir):
    norway = read_traces(raw_data_dir / "traces/norway_hsdpa.tar.gz")
    assert len(norway) == 210
    rates = [mean_rate(trace) / 1e6 for trace in norway]
    assert min(rates) >= 0.008
    assert max(rates) <= 8.95
    cellular = read_traces(
        raw_data_dir / "traces/us_cellular_mahimahi.tar.gz", name_contains=".down"
    )
    assert all(0.3 < mean_rate(trace) / 1e6 < 17 for trace in cellular)


@pytest.mark.parametrize(
    "durations, rates",
    [([], []), ([1.0], [0.0]), ([0.0], [1.0]), ([1.0], [-1.0]), ([1.0, 2.0], [1.0])],
)
def test_impossible_traces_are_refused(durations, rates):
    with pytest.raises(ValueError, match="Expected"):
        rate_trace(np.array(durations), np.array(rates))
