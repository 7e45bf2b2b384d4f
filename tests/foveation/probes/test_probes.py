"""Stimuli of the probes: published pixels and areas, levels, and what holds at any size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

import foveation_jax as fj
from foveation_jax.probes import cue_conflict, frequency, occlusion

SIZES = [(64, 64), (37, 50)]
GREY = 128 / 255


def _images(size, seed=0, n=2):
    """Random 8-bit levels as colours."""
    levels = np.random.default_rng(seed).integers(0, 256, (n, *size, 3))
    return jnp.asarray(levels / 255, jnp.float32)


def _published_masks(z):
    """Hidden pixels of 256 x 256 at level z, by the published formulas."""
    area = 16 * (z - 1) * 256
    scotoma, left, top = (np.zeros((256, 256), bool) for _ in range(3))
    half = math.ceil(math.sqrt(area) / 2)
    scotoma[128 - half : 128 + half, 128 - half : 128 + half] = True
    glaucoma = np.ones((256, 256), bool)
    half = math.ceil(math.sqrt(256**2 - area) / 2)
    glaucoma[128 - half : 128 + half, 128 - half : 128 + half] = False
    left[:, : 16 * (z - 1)] = True
    top[: 16 * (z - 1)] = True
    return {"scotoma": scotoma, "glaucoma": glaucoma, "left_to_right": left, "top_to_bottom": top}


@pytest.mark.parametrize("kind", occlusion.KINDS)
def test_occlusion_hides_the_published_pixels(kind):
    masks = jax.vmap(lambda z: occlusion.hidden_mask(kind, (256, 256), z))(jnp.arange(1, 18))
    expected = np.stack([_published_masks(z)[kind] for z in occlusion.LEVELS])
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_allclose(
        occlusion.hidden_areas(kind, (256, 256)), expected.mean((1, 2)), rtol=1e-6
    )


@pytest.mark.parametrize("kind", occlusion.KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_occlusion_grows_from_the_image_to_grey(kind, size):
    images = _images(size)
    shown = np.asarray(
        jax.jit(jax.vmap(lambda z: fj.probes.occlude(images, kind, z)))(jnp.arange(1, 18))
    )
    np.testing.assert_array_equal(shown[0], images)
    np.testing.assert_array_equal(shown[-1], np.float32(GREY))
    hidden = (shown == np.float32(GREY)).all((1, -1))
    assert (hidden[:-1] <= hidden[1:]).all()
    np.testing.assert_array_equal(shown[5], fj.probes.occlude(images, kind, 6))
    # The published area, but for half a pixel at each of the sides.
    areas = occlusion.hidden_areas(kind, size)
    published = [_published_masks(z)[kind].mean() for z in occlusion.LEVELS]
    assert np.abs(areas - published).max() <= 1 / size[0] + 1 / size[1]


@pytest.mark.parametrize(("side", "tolerance"), [(256, 0.006), (64, 0.03)])
def test_window_areas_are_the_published_ones(side, tolerance):
    windows = fj.pooling_windows(0.4, (side, side))
    assert cue_conflict.window_levels(windows) == tuple(range(8))
    published = [0, 1.55, 3.43, 7.59, 16.80, 37.19, 80.78, 100]
    areas = cue_conflict.centre_areas(windows)
    np.testing.assert_allclose(100 * areas, published, atol=tolerance)
    weights = jax.lax.map(lambda k: cue_conflict.centre_weight(windows, k), jnp.arange(8))
    np.testing.assert_allclose(areas, weights.mean((1, 2)), atol=1e-5)


def test_window_weights_add_whole_rings_from_inside_out():
    windows = fj.pooling_windows(0.5, (37, 50), (3.0, 44.0))
    levels = cue_conflict.window_levels(windows)
    weight = jax.jit(lambda k: cue_conflict.centre_weight(windows, k))
    weights = np.stack([weight(k) for k in levels])
    assert (weights[0] == 0).all()
    assert (weights[-1] == 1).all()
    assert (np.diff(weights, axis=0) > -1e-5).all()
    masks = np.asarray(windows.masks())
    kept = np.asarray(windows.kept).T.reshape(-1) > 0
    ring = np.tile(np.arange(windows.n_rings), windows.n_wedges)[kept]
    for k in levels[1:]:
        expected = masks[0] + masks[1:][ring < k - 1].sum(0)
        np.testing.assert_allclose(weights[k], expected, atol=1e-4)


def test_window_conflict_mixes_the_decoy_into_the_centre():
    images, decoys = _images((64, 64)), _images((64, 64), 1)
    shown = np.asarray(
        jax.jit(jax.vmap(lambda k: fj.probes.window_conflict(images, decoys, k)))(jnp.arange(8))
    )
    np.testing.assert_array_equal(shown[0], images)
    np.testing.assert_array_equal(shown[7], decoys)
    np.testing.assert_allclose(shown[3][:, 31:33, 31:33], decoys[:, 31:33, 31:33], atol=1e-6)
    # Slivers in the corners belong to the fovea, as published: they are left out here.
    np.testing.assert_allclose(shown[3][:, 4:-4, :8], images[:, 4:-4, :8], atol=1e-6)
    swapped = fj.probes.window_conflict(decoys, images, 3)
    np.testing.assert_allclose(shown[3] + swapped, images + decoys, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_square_conflict_shows_the_decoy_where_the_scotoma_hides(size):
    images, decoys = _images(size), _images(size, 1)
    conflict, mask = (
        jax.jit(fj.probes.square_conflict),
        jax.jit(occlusion.hidden_mask, static_argnums=(0, 1)),
    )
    for level in (1, 4, 17):
        shown = np.asarray(conflict(images, decoys, level))
        hidden = np.asarray(mask("scotoma", size, level))
        np.testing.assert_array_equal(shown, np.where(hidden[None, ..., None], decoys, images))
    np.testing.assert_array_equal(shown, decoys)
    np.testing.assert_array_equal(
        cue_conflict.square_areas(size), occlusion.hidden_areas("scotoma", size)
    )


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=6),
    seed=st.integers(0, 99),
    kind=st.sampled_from(cue_conflict.DECOYS),
)
def test_decoys_are_of_another_class_and_paired_by_rank(counts, seed, kind):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    decoys = fj.probes.decoy_indices(labels, kind)
    for c in range(len(counts)):
        for i, row in enumerate(np.flatnonzero(labels == c)):
            step = 1 if kind == "window" else 1 + i % (len(counts) - 1)
            partner = (c + step) % len(counts)
            expected = np.flatnonzero(labels == partner)[i % counts[partner]]
            assert labels[decoys[row]] != c
            assert decoys[row] == expected


def test_square_decoys_show_every_class_equally_often():
    labels = np.repeat(np.arange(5), 8)
    shown = np.bincount(labels[fj.probes.decoy_indices(labels, "square")])
    np.testing.assert_array_equal(shown, 8)
    windows = np.sort(fj.probes.decoy_indices(labels, "window"))
    np.testing.assert_array_equal(windows, np.arange(40))


LOW = jax.jit(fj.probes.low_pass)
HIGH = jax.jit(fj.probes.high_pass)
BLUR_MATRIX = jax.jit(frequency.blur_matrix, static_argnums=(1, 2))


def _scipy_blur(images, sigma):
    """Independent: scipy's Gaussian, cut at ceil(2 sigma), nearest pixel beyond the edges."""
    reach = math.ceil(2 * sigma)
    return scipy.ndimage.gaussian_filter(
        np.asarray(images, np.float64),
        (0, sigma, sigma, 0),
        mode="nearest",
        radius=(0, reach, reach, 0),
    )


@pytest.mark.parametrize("sigma", [0.4, 0.55, 1.0, 3.0, 15.0, 40.0])
@pytest.mark.parametrize("size", SIZES)
def test_filters_agree_with_scipy_to_the_level(sigma, size):
    images, mean = _images(size), np.array([0.4, 0.5, 0.6], np.float32)
    blurred = _scipy_blur(images, sigma)
    detail = np.asarray(images, np.float64) - blurred
    detail += mean - detail.mean((1, 2), keepdims=True)
    for ours, expected in ((LOW(images, sigma), blurred), (HIGH(images, sigma, mean), detail)):
        expected = 255 * np.clip(expected, 0, 1)
        levels = np.asarray(ours) * 255
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        # Half a level of rounding, and what floats add before it.
        assert np.abs(levels - expected).max() < 0.5 + 1e-3


@pytest.mark.parametrize("sigma", [0.3, 2.0, 30.0, 64.0])
def test_blur_matrix_keeps_constants_and_gathers_the_tails(sigma):
    n, reach = 21, 128
    matrix = np.asarray(BLUR_MATRIX(sigma, n, reach))
    taps = np.arange(-math.ceil(2 * sigma), math.ceil(2 * sigma) + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    expected = np.zeros((n, n))
    for i in range(n):
        np.add.at(expected[i], np.clip(i + taps, 0, n - 1), weights / weights.sum())
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_levels_that_remove_nothing_and_everything():
    images, mean = _images((64, 64)), np.array([0.2, 0.4, 0.8], np.float32)
    np.testing.assert_array_equal(LOW(images, 0.0), images)
    np.testing.assert_array_equal(LOW(images, None), images)
    np.testing.assert_array_equal(HIGH(images, jnp.inf, mean), images)
    np.testing.assert_array_equal(HIGH(images, None, mean), images)
    removed = np.broadcast_to(np.array([51, 102, 204]), images.shape)
    np.testing.assert_allclose(255 * HIGH(images, 0.0, mean), removed, atol=1e-4)
    flat = jnp.full((2, 64, 64, 3), 100 / 255)
    np.testing.assert_allclose(255 * LOW(flat, 15.0), 100, atol=1e-4)


def test_high_pass_forgets_the_mean_colour():
    images, mean = 0.5 * _images((64, 64)), jnp.full(3, 0.5)
    moved = HIGH(images + 0.25, 1.0, mean)
    np.testing.assert_allclose(255 * moved, 255 * HIGH(images, 1.0, mean), atol=1.001)
    np.testing.assert_allclose(moved.mean((1, 2)), 0.5, atol=1e-3)


def test_sigmas_go_along_with_the_width():
    np.testing.assert_allclose(frequency.low_pass_sigmas(256), [0, 1, 3, 5, 7, 9, 15, 40])
    np.testing.assert_allclose(frequency.low_pass_sigmas(64)[-1], 10)
    fine = scipy.ndimage.zoom(np.random.default_rng(3).random((2, 8, 8)), (1, 16, 16), order=3)
    fine = jnp.asarray(np.clip(fine, 0, 1)[..., None] * np.ones(3), jnp.float32)
    coarse = fine.reshape(2, 64, 2, 64, 2, 3).mean((2, 4))
    sigmas = [float(frequency.low_pass_sigmas(width)[4]) for width in (128, 64)]
    blurred, alike = LOW(fine, sigmas[0]).reshape(2, 64, 2, 64, 2, 3), LOW(coarse, sigmas[1])
    np.testing.assert_allclose(blurred.mean((2, 4)), alike, atol=0.01)


def test_grey_is_luminance():
    colours = jnp.eye(3)[None, None].reshape(1, 1, 3, 3)
    expected = np.broadcast_to([[0.299], [0.587], [0.114]], (3, 3))
    np.testing.assert_allclose(fj.probes.grey(colours)[0, 0], expected, atol=1e-6)


IMAGE = jnp.full((1, 64, 64, 3), 0.5)
OTHER = jnp.full((1, 64, 66, 3), 0.5)
MEAN = jnp.full(3, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fj.probes.occlude(IMAGE, "hole", 3), "kind is 'hole'.*scotoma, glaucoma"),
        (lambda: fj.probes.occlude(IMAGE, "scotoma", 0), "level is 0; .* 1 to 17"),
        (lambda: fj.probes.occlude(IMAGE, "scotoma", 18), "level is 18; .* 1 to 17"),
        (lambda: fj.probes.occlude(IMAGE + 1, "scotoma", 2), "span 1.5 to 1.5"),
        (lambda: fj.probes.window_conflict(IMAGE, IMAGE, 99), "level is 99; .* 0 to 7"),
        # Asked directly: the checked annotations complain first in tests.
        (lambda: cue_conflict._check_pair("w", IMAGE, OTHER), "decoys .1, 64, 66, 3.: these must"),
        (
            lambda: fj.probes.window_conflict(OTHER, OTHER, 1, fj.pooling_windows(0.4, (64, 64))),
            r"windows are of size \(64, 64\)",
        ),
        (lambda: fj.probes.square_conflict(IMAGE, IMAGE, -1), "level is -1"),
        (lambda: fj.probes.low_pass(IMAGE, -1.0), "low_pass sigma is -1.*within 0 and 64"),
        (lambda: fj.probes.low_pass(IMAGE, math.inf), "low_pass sigma is inf"),
        (lambda: fj.probes.high_pass(IMAGE, math.nan, MEAN), "high_pass sigma is nan"),
        (lambda: fj.probes.decoy_indices(np.zeros(4, int), "window"), "two or more classes"),
        (lambda: fj.probes.decoy_indices(np.array([0, 2]), "square"), r"\[1, 0, 1\] images"),
        (lambda: fj.probes.decoy_indices(np.array([0, 1]), "round"), "decoy kind is 'round'"),
    ],
)
def test_what_cannot_be_shown_is_refused(call, message):
    with pytest.raises(fj.InputError, match=message):
        call()
