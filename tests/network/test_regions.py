"""Links between regions: their range, a matrix of one's own, and its mistakes."""

import numpy as np
import pytest

from fedjax_comp.network import regions


def test_the_regions():
    links = regions.wan(lan_mbps=600.0, nearest=15.0, farthest=60.0)
    apart = ~np.eye(11, dtype=bool)
    rates = links.bits_per_second[apart] / 1e6
    assert rates.max() == pytest.approx(40)
    assert rates.min() == pytest.approx(10)
    np.testing.assert_allclose(links.bits_per_second, links.bits_per_second.T)
    hubs = regions.hubs_of(11)
    assert all(hubs[hub] == hub for hub in hubs)


def test_a_local_network_has_one_rate_and_no_latency():
    links = regions.lan(3, mbps=8.0)
    apart = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(links.bits_per_second[apart], 8e6)
    assert np.isinf(np.diag(links.bits_per_second)).all()
    assert not links.latency_seconds.any()


def test_a_matrix_is_read_as_it_stands(tmp_path):
    file = tmp_path / "links.csv"
    file.write_text("0,5,2.5\n4,0,1\n3,1,7\n")
    rate = regions.read_matrix(str(file)).bits_per_second / 1e6
    # From row to column, whatever stands on the diagonal.
    assert rate.tolist() == [[np.inf, 5, 2.5], [4, np.inf, 1], [3, 1, np.inf]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,x\n1,1\n", "not a table of numbers"),
        ("1,1\n1\n", "not a table of numbers"),
        ("1,1,1\n1,1,1\n", r"shape \(2, 3\)"),
        ("1\n", r"shape \(1, 1\)"),
        ("0,0\n1,0\n", "not above 0"),
        ("0,-1\n1,0\n", "not above 0"),
    ],
)
def test_what_is_not_a_matrix_is_refused(tmp_path, text, expected):
    file = tmp_path / "links.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=expected):
        regions.read_matrix(str(file))


def test_every_region_has_the_hub_of_its_group():
    names = list(regions.REGIONS)
    hubs = dict(zip(names, (names[h] for h in regions.hubs_of(11)), strict=True))
    assert {r for group in regions.GROUPS for r in group} == set(names)
    assert all(hubs[r] == group[0] for group in regions.GROUPS for r in group)
    with pytest.raises(ValueError, match="11 regions only, not for 5"):
        regions.hubs_of(5)


@pytest.mark.parametrize("ratios", [(0.5, 2.0), (3.0, 2.0)])
def test_ratios_out_of_order_are_refused(ratios):
    with pytest.raises(ValueError, match=r"Expected 1 <= nearest="):
        regions.wan(lan_mbps=1.0, nearest=ratios[0], farthest=ratios[1])
