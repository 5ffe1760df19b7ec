"""The server with one party against the others: what comes back, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.one_shot import collusion
from fedjax_comp.one_shot import private_maps as maps
from fedjax_comp.one_shot.row_noise import gaussian_rows, noised, row_epsilon

KEY = jax.random.key(0)
D, M = 12, 5


def uploads(fit, *, rows, noise=None, seed=0):
    """Three parties' inputs near a plane of M dimensions, and what they send."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(M, D))
    inputs = [
        (3 + rng.normal(size=(60, M)) @ plane + 0.01 * rng.normal(size=(60, D))).astype(
            np.float32
        )
        for _ in range(3)
    ]
    anchor = maps.uniform(rows, low=-1.0)(KEY, jnp.zeros((1, D)))
    images, sent = [], []
    for i, x in enumerate(inputs):
        private = fit(jax.random.key(i), jnp.asarray(x))
        image = maps.apply_map(private, jnp.asarray(x))
        if noise is not None:
            image = noised(jax.random.key(i), image, noise)
        images.append(np.asarray(maps.apply_map(private, anchor)))
        sent.append(np.asarray(image))
    return np.asarray(anchor), images, sent, inputs


@pytest.mark.parametrize(
    "fit", [maps.pca(M), maps.permuted(maps.pca(M)), maps.random_orthogonal(M)]
)
def test_an_anchor_of_more_rows_than_columns_gives_every_map_away(fit):
    anchor, images, _, inputs = uploads(fit, rows=D + 1)
    prior = collusion.prior_of(inputs[0], shrinkage=0.5)
    for i, found in enumerate(collusion.recover_maps(anchor, images, prior)):
        true = fit(jax.random.key(i), jnp.asarray(inputs[i])).matrix
        np.testing.assert_allclose(found.matrix, true, atol=1e-4)
        assert found.variance < 1e-9


def test_inputs_come_back_from_their_principal_components():
    given = uploads(maps.permuted(maps.pca(M)), rows=D + 1)
    anchor, images, sent, inputs = given
    prior = collusion.prior_of(inputs[0], shrinkage=1.0)
    (found,) = collusion.recover_maps(anchor, images[1:2], prior)
    guess = collusion.recover_inputs(sent[1], found, prior)
    # All but the mean, which is taken to be that of the colluding party.
    centred = inputs[1] - inputs[1].mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:M]
    np.testing.assert_allclose(
        guess - prior.mean, centred @ directions.T @ directions, atol=1e-3
    )
    told = collusion.leakage(*given)
    assert told.cosine > 0.95 > 0.9 > told.guessed


def test_fewer_anchors_tell_less():
    found = [
        collusion.leakage(*uploads(maps.pca(M), rows=rows)) for rows in (D + 1, 8, 2)
    ]
    cosines = [one.cosine for one in found]
    assert cosines[0] > cosines[1] > cosines[2]
    prior = collusion.prior_of(np.eye(D), shrinkage=1.0)
    (few,) = collusion.recover_maps(np.eye(3, D), [np.eye(3, M)], prior)
    assert few.variance > 0


def test_what_cannot_be_told_is_the_mean():
    """An anchor of one row says nothing of a map but where it begins."""
    prior = collusion.prior_of(np.eye(D) + 1, shrinkage=0.5)
    (found,) = collusion.recover_maps(np.eye(2, D), [np.zeros((2, M))], prior)
    guess = collusion.recover_inputs(np.ones((4, M)), found, prior)
    np.testing.assert_allclose(guess, np.broadcast_to(prior.mean, (4, D)))


def test_noise_bounds_what_comes_back():
    cosines = []
    for multiplier in (0.1, 10.0):
        noise = gaussian_rows(8.0, multiplier)
        given = uploads(maps.pca(M), rows=D + 1, noise=noise)
        told = collusion.leakage(*given, noise_variance=noise.variance)
        cosines.append(told.cosine)
    assert cosines[0] > cosines[1]
    # So much noise leaves the mean, which the party knows by itself.
    assert cosines[1] == pytest.approx(told.guessed, abs=0.05)


def test_a_party_alone_has_nobody_to_betray():
    x = np.ones((3, D))
    assert collusion.leakage(x, [x], [x], [x]) is None


def test_rows_are_clipped_and_noise_has_its_deviation():
    rows = 100 * jnp.ones((2000, 4))
    noise = gaussian_rows(2.0, 0.5)
    drawn = np.asarray(noised(KEY, rows, noise)) - 1.0  # clipped to norm 2: ones
    # 8,000 draws: means and deviations within five standard errors.
    assert abs(drawn.mean()) < 5 / 8000**0.5
    assert abs(drawn.std() - 1) < 5 / 16000**0.5
    small = jnp.ones((3, 4)) / 10
    quiet = noised(KEY, small, gaussian_rows(2.0, 1e-9))
    np.testing.assert_allclose(quiet, small, rtol=1e-5)


def test_epsilon_is_that_of_rows_two_clips_apart():
    # Half the noise is the same as half as much of everything: z = 1, Balle and Wang.
    assert row_epsilon(gaussian_rows(3.0, 2.0), delta=1e-5) == pytest.approx(
        4.377, abs=1e-3
    )
    assert row_epsilon(gaussian_rows(1.0, 0.3), delta=1e-5) > 40


def test_a_seed_makes_random_directions_everybodys():
    x = jnp.ones((2, D))
    fit = maps.random_orthogonal(M, seed=3)
    one, other = (fit(jax.random.key(i), x).matrix for i in (1, 2))
    np.testing.assert_array_equal(one, other)
    own = maps.random_orthogonal(M)
    assert not np.allclose(own(KEY, x).matrix, own(jax.random.key(1), x).matrix)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: collusion.prior_of(np.eye(2), shrinkage=0.0), "shrinkage=0.0"),
        (lambda: gaussian_rows(0.0, 1.0), "clip=0.0"),
        (lambda: gaussian_rows(1.0, -1.0), "multiplier=-1.0"),
        (lambda: maps.random_orthogonal(2, seed=-1), "seed=-1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
