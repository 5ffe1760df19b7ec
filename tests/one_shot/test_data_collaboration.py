"""Data collaboration: maps, anchors, the common space, and the one upload."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Messages, make_context
from fedjax_comp.compress import error_feedback, stochastic_quantize, top_k
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.one_shot import data_collaboration as dc
from fedjax_comp.one_shot import private_maps as maps
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes
from fedjax_comp.wire.traffic import to_server

KEY = jax.random.key(0)


def inputs(n=40, d=8, seed=0):
    """Examples with a mean and unequal directions."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(
        1 + rng.normal(size=(n, d)) * np.linspace(3, 0.3, d), jnp.float32
    )


def test_pca_is_that_of_numpy():
    x = inputs()
    private = maps.pca(3)(KEY, x)
    centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    leading = vectors[:, ::-1][:, :3]
    overlap = np.abs(leading.T @ np.asarray(private.matrix))
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(maps.apply_map(private, x).mean(0), 0, atol=1e-5)


def test_the_other_maps():
    x = inputs()
    for fit in (maps.truncated_svd(4), maps.random_orthogonal(4)):
        matrix = fit(KEY, x).matrix
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(4), atol=1e-5)
    plain, hidden = (
        maps.pca(4)(KEY, x).matrix,
        maps.permuted(maps.pca(4))(KEY, x).matrix,
    )
    overlap = np.abs(np.asarray(plain.T @ hidden))
    # A permutation with signs, and not the one that does nothing.
    np.testing.assert_allclose(np.sort(overlap, 0)[-1], 1, atol=1e-4)
    np.testing.assert_allclose(overlap.sum(0), 1, atol=1e-3)
    assert not np.allclose(plain, hidden)


def test_directions_that_all_share_are_those_of_the_seed_alone():
    fit, x = maps.random_orthogonal(2, seed=3), inputs()
    here = fit(KEY, x).matrix
    with jax.default_prng_impl("rbg"):
        there = fit(KEY, x).matrix
    np.testing.assert_array_equal(here, there)
    with pytest.raises(ValueError, match="seed=4294967296"):
        maps.random_orthogonal(2, seed=2**32)


def singular_values(x):
    return np.linalg.svd(np.asarray(x) - np.asarray(x).mean(0), compute_uv=False)


def test_anchors():
    public = inputs(60)
    drawn = maps.uniform(50, low=-1.0, high=3.0)(KEY, public)
    assert drawn.shape == (50, 8)
    assert -1 <= drawn.min() < drawn.max() <= 3
    sample = np.asarray(maps.public_sample(60)(KEY, public))
    np.testing.assert_array_equal(
        sample[np.argsort(sample[:, 0])], np.asarray(public)[np.argsort(public[:, 0])]
    )
    low = maps.low_rank_sample(4000, rank=2)(KEY, public)
    values = singular_values(low)
    assert values[2] < 1e-3 * values[1]
    theirs = singular_values(public)
    # Standard deviations along the two directions, within six standard errors.
    np.testing.assert_allclose(
        values[:2] / 4000**0.5, theirs[:2] / 60**0.5, rtol=6 / (2 * 4000) ** 0.5
    )


def test_parties_meet_in_one_space_exactly_when_maps_span_the_same():
    """Maps that differ by an invertible matrix are undone: nothing is lost."""
    x = inputs()
    anchor = maps.uniform(30)(KEY, x)
    base = maps.truncated_svd(5)(KEY, x).matrix
    mixes = [jax.random.normal(jax.random.key(i), (5, 5)) for i in range(3)]
    private = [maps.PrivateMap(jnp.zeros(8), base @ mix) for mix in mixes]
    common = dc.collaborate([maps.apply_map(m, anchor) for m in private], 5)
    images = [maps.apply_map(m, x) @ g for m, g in zip(private, common, strict=True)]
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], rtol=1e-2, atol=1e-2)
    # The anchor's coordinates are orthogonal, of mean square one.
    common_anchor = maps.apply_map(private[0], anchor) @ common[0]
    np.testing.assert_allclose(
        common_anchor.T @ common_anchor / 30, np.eye(5), atol=1e-2
    )


def test_the_collaboration_map_is_least_squares():
    rng = np.random.default_rng(1)
    anchors = [rng.normal(size=(20, m)).astype(np.float32) for m in (4, 6)]
    common = dc.collaborate([jnp.asarray(a) for a in anchors], 3)
    left = np.linalg.svd(np.concatenate(anchors, 1).astype(np.float64))[0][:, :3]
    for anchor, g in zip(anchors, common, strict=True):
        expected = np.linalg.pinv(anchor) @ left * 20**0.5
        # Singular vectors are known up to their sign.
        signs = np.sign((expected * np.asarray(g)).sum(0))
        np.testing.assert_allclose(g, expected * signs, atol=1e-3)


def test_one_party_alone_keeps_its_components():
    x = inputs()
    private = maps.pca(3)(KEY, x)
    (g,) = dc.collaborate([maps.apply_map(private, maps.uniform(30)(KEY, x))], 3)
    assert np.linalg.matrix_rank(np.asarray(g)) == 3


@pytest.mark.parametrize("compressor", [None, stochastic_quantize(levels=16)])
def test_an_upload_is_its_bytes(compressor):
    link = dc.upload_link(compressor, num_classes=10)
    shared = dc.Shared(inputs(6, 3), inputs(4, 3), jnp.arange(6, dtype=jnp.int32))
    state, context = link.init(shared), make_context(KEY, 0)
    message, _ = link.encode(context, shared, state.sender)
    received, _ = link.decode(context, message, state.receiver)
    batch = jax.tree.map(
        lambda a: a[None],
        Messages(
            context, message, state.receiver, jnp.array(True), to_server(0), received
        ),
    )
    assert not make_auditor(link)(batch).failures
    np.testing.assert_array_equal(received.labels, shared.labels)
    if compressor is None:
        np.testing.assert_array_equal(received.x, shared.x)
        assert len(to_bytes(message)) - HEADER_BYTES == 4 * (18 + 12) + 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: maps.pca(0), "components=0"),
        (lambda: maps.pca(5)(KEY, inputs(4)), "components=5 <= 4 examples"),
        (lambda: maps.truncated_svd(9)(KEY, inputs()), "components=9"),
        (lambda: maps.random_orthogonal(9)(KEY, inputs()), "components=9 <= 8 inputs"),
        (lambda: maps.uniform(0), "size=0"),
        (lambda: maps.uniform(3, low=1.0, high=1.0), "low=1.0 < high=1.0"),
        (lambda: maps.public_sample(41)(KEY, inputs()), "size=41 <= 40"),
        (lambda: maps.low_rank_sample(5, rank=0), "rank=0"),
        (lambda: maps.low_rank_sample(5, rank=9)(KEY, inputs()), "rank=9 <= 8"),
        (lambda: dc.collaborate([], 1), "hold a party"),
        (lambda: dc.collaborate([jnp.ones((3, 2)), jnp.ones((4, 2))], 1), "one length"),
        (lambda: dc.collaborate([jnp.ones((3, 2))], 3), "dimension=3 <= 2"),
        (lambda: dc.upload_link(num_classes=0), "num_classes=0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "use",
    [
        maps.pca(2),
        maps.truncated_svd(2),
        maps.random_orthogonal(2),
        maps.permuted(maps.pca(2)),
        maps.uniform(3),
        maps.low_rank_sample(3, rank=2),
    ],
)
def test_inputs_as_they_are_stored_are_refused_in_one_line(use):
    stored = jnp.arange(32, dtype=jnp.uint8).reshape(8, 4)
    with pytest.raises(ValueError, match=r"in floats, got uint8: give x\.astype"):
        use(KEY, stored)
    assert maps.public_sample(3)(KEY, stored).dtype == jnp.uint8


def test_a_compressor_with_memory_is_refused():
    link = dc.upload_link(error_feedback(top_k(0.5)), num_classes=2)
    shared = dc.Shared(inputs(6, 3), inputs(4, 3), jnp.zeros(6, jnp.int32))
    with pytest.raises(ValueError, match="only once"):
        link.init(shared)
