"""Texture statistics: plenoptic's on one window, known values by ring, gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.transforms.texture_statistics import FLOOR, SHIFTS, pooled_statistics
from foveation_jax.windows.pooling import Cells

GOLDEN = Path(__file__).parents[2] / "goldens" / "foveation" / "texture_plenoptic.npz"


def one_window(size: int, n_scales: int) -> tuple[Cells, ...]:
    grids = [size // 2**k for k in range(n_scales)]
    return tuple(
        Cells(jnp.ones((1, n, n)), jnp.ones((1, n, n)), jnp.full((1, 1), float(n * n)), 1)
        for n in grids
    )


@pytest.fixture(scope="module")
def parity():
    """Our statistics of the golden's image in one window, and plenoptic's."""
    golden = np.load(GOLDEN)
    image = jnp.broadcast_to(golden["image"], (3, 64, 64))
    pooled = jax.jit(pooled_statistics)(image, one_window(64, 3))
    return {name: np.asarray(table)[0, 0] for name, table in pooled.items()}, golden


def test_marginals_are_plenoptics(parity):
    ours, golden = parity
    mean, variance, skew, kurtosis = golden["pixel_statistics"][:4]
    np.testing.assert_allclose(ours["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(ours["variance"], variance, rtol=1e-3)
    # Ours are seen through noise of one grey level: up to a thousandth of the variance here.
    np.testing.assert_allclose(ours["skew"][0], skew, atol=2e-3)
    np.testing.assert_allclose(ours["kurtosis"][0], kurtosis, rtol=2e-3)
    np.testing.assert_allclose(ours["skew"][1:], golden["skew_reconstructed"][:3], atol=2e-3)
    np.testing.assert_allclose(
        ours["kurtosis"][1:], golden["kurtosis_reconstructed"][:3], rtol=4e-3
    )


def test_energies_and_sparseness_are_plenoptics(parity):
    ours, golden = parity
    high, *energy = np.split(np.exp(ours["energy"]) - FLOOR, [1, 5, 9])
    np.testing.assert_allclose(high, golden["var_highpass_residual"], rtol=1e-2)
    for k in range(3):
        deviation = np.sqrt(energy[k] * (1 - ours["sparseness"][4 * k : 4 * k + 4]))
        theirs = golden["magnitude_std"][:, k] / 4**k  # as pyrtools samples its octaves
        np.testing.assert_allclose(deviation, theirs, rtol=5e-3)


def test_correlations_are_plenoptics(parity):
    ours, golden = parity
    for k in range(3):
        orientations = golden["cross_orientation_correlation_magnitude"][..., k]
        expected = np.fmax(orientations, orientations.T)[np.tril_indices(4, -1)]
        np.testing.assert_allclose(ours["orientations"][6 * k : 6 * k + 6], expected, atol=3e-3)
        places = golden["auto_correlation_magnitude"][..., k]
        for b in range(4):
            for i, (dy, dx) in enumerate(SHIFTS):
                sides = places[2 + dy, 2 + dx, b], places[2 - dy, 2 - dx, b]
                found = ours["positions"][(4 * k + b) * len(SHIFTS) + i]
                np.testing.assert_allclose(found, np.nanmax(sides), atol=3e-3)
    for k in range(2):
        scales = golden["cross_scale_correlation_magnitude"][..., k].ravel()
        np.testing.assert_allclose(ours["scales"][16 * k : 16 * k + 16], scales, atol=3e-3)
        phase = golden["cross_scale_correlation_real"][..., k].ravel()
        known = np.isfinite(phase)
        found = ours["phase"][32 * k : 32 * k + 32]
        np.testing.assert_allclose(found[known], phase[known], atol=3e-3)
        assert known.sum() >= 16


def test_an_image_beside_itself(photographs):
    same = fj.texture_statistics(photographs, photographs)
    inside = slice(0, 6)
    for error in same.errors.values():
        assert np.nanmax(error) == 0
    np.testing.assert_allclose(same.correlation[inside], 1, atol=1e-4)
    np.testing.assert_allclose(same.energy[inside], 1, atol=1e-4)
    np.testing.assert_allclose(same.colours[inside], 1, atol=1e-4)
    np.testing.assert_array_equal(same.coherence[0], same.coherence[1])


def test_levels_of_8_bits_are_the_colours_that_they_are(photographs):
    seen = [np.asarray(photographs), 0.5 + 0.5 * (np.asarray(photographs) - 0.5)]
    levels = [np.round(255 * x).astype(np.uint8) for x in seen]
    found = fj.texture_statistics(*levels)
    wanted = fj.texture_statistics(*(x / np.float32(255) for x in levels))
    for family, errors in wanted.errors.items():
        np.testing.assert_allclose(found.errors[family], errors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variance[:6], 0.25, rtol=0.02)


def test_half_the_contrast_and_shuffled_pixels(photographs):
    """Contrast changes energies alone; shuffling keeps the mean alone of what is local."""
    half = fj.texture_statistics(photographs, 0.5 + 0.5 * (photographs - 0.5))
    np.testing.assert_allclose(half.variance[:6], 0.25, rtol=1e-3)
    np.testing.assert_allclose(half.energy[:6], 0.25, rtol=1e-3)
    np.testing.assert_allclose(half.correlation[:6], 1, atol=1e-4)
    np.testing.assert_allclose(half.kurtosis[1, :6], half.kurtosis[0, :6], rtol=1e-3)
    assert float(half.errors["positions"][4]) < 0.1 < float(half.errors["energy"][4])
    shuffled = jax.random.permutation(jax.random.key(0), photographs.reshape(2, -1, 3), axis=1)
    lost = fj.texture_statistics(photographs, shuffled.reshape(photographs.shape))
    assert float(jnp.abs(lost.correlation[2:6, :2]).max()) < 0.1
    assert (np.asarray(lost.coherence[1, 2:6]) < 0.4).all()
    assert (np.asarray(lost.coherence[0, 2:6]) > 0.5).all()
    for family in ("positions", "orientations", "scales", "energy", "sparseness"):
        assert float(lost.errors[family][4]) > 0.4


def test_a_grating_is_coherent_and_noise_has_kurtosis_three():
    grating = 0.5 + 0.4 * jnp.sin(jnp.arange(128) / 1.5)[None, None, :, None]
    grating = jnp.broadcast_to(grating, (2, 128, 128, 3))
    noise = 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (2, 128, 128, 1))
    noise = jnp.broadcast_to(noise, grating.shape)
    found = fj.texture_statistics(noise, grating)
    np.testing.assert_allclose(found.coherence[1, :6], 1, atol=0.02)
    np.testing.assert_allclose(found.kurtosis[0, 3:6, :2], 3, rtol=0.15)
    np.testing.assert_allclose(found.kurtosis[1, 3:6, 1], 1.5, rtol=0.1)  # of a sine


def test_gradients_agree_with_finite_differences(photographs):
    image = jnp.moveaxis(photographs[0, 32:64, 32:64], -1, 0)

    @jax.jit
    @jax.value_and_grad
    def loss(image):
        return sum(jnp.cos(v).sum() for v in pooled_statistics(image, one_window(32, 2)).values())

    _, gradient = loss(image)
    assert bool(jnp.isfinite(gradient).all())
    direction = gradient / jnp.linalg.norm(gradient)
    ends = [float(loss(image + step * direction)[0]) for step in (1e-3, -1e-3)]
    measured = (ends[0] - ends[1]) / 2e-3
    assert float((gradient * direction).sum()) == pytest.approx(measured, rel=0.03)
    flat = jnp.full_like(image, 0.5)
    assert bool(jnp.isfinite(loss(flat)[1]).all())


def test_bad_batches_are_refused(photographs):
    for images, seen, words in (
        (photographs, photographs[:1], "one shape"),
        (photographs[..., :1], photographs[..., :1], "3"),
        (photographs[:, :20, :20], photographs[:, :20, :20], "too small"),
    ):
        with pytest.raises(fj.InputError, match=words):
            fj.texture_statistics(images, seen)
