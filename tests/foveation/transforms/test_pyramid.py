"""Steerable pyramid: pyrtools' coefficients, exact inverse, quadrature."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foveation_jax.runs.errors import InputError
from foveation_jax.transforms import pyramid

GOLDEN = Path(__file__).parents[2] / "goldens" / "foveation" / "pyramid_pyrtools.npz"


def test_coefficients_are_pyrtools():
    golden = np.load(GOLDEN)
    ours = pyramid.decompose(jnp.asarray(golden["image"]), 2, 4)
    np.testing.assert_allclose(ours.high, golden["high"], atol=1e-5)
    np.testing.assert_allclose(ours.low, golden["low"], atol=1e-5)
    for k in range(2):
        np.testing.assert_allclose(ours.bands[k], golden[f"bands{k}"], atol=1e-5)


@pytest.mark.parametrize("complex_bands", [True, False])
@pytest.mark.parametrize(
    ("size", "n_scales", "n_orientations"),
    [((64, 64), 3, 4), ((50, 70), 2, 4), ((16, 34), 1, 2), ((96, 40), 3, 6), ((128, 64), 4, 3)],
)
def test_inverse_is_exact(size, n_scales, n_orientations, complex_bands):
    planes = jax.random.uniform(jax.random.key(0), (2, 3, *size))
    split = pyramid.decompose(planes, n_scales, n_orientations, complex_bands)
    np.testing.assert_allclose(pyramid.reconstruct(split), planes, atol=3e-6)


def test_real_parts_are_the_real_pyramid():
    planes = jax.random.normal(jax.random.key(1), (32, 48))
    whole, real = (pyramid.decompose(planes, 2, 4, c) for c in (True, False))
    for a, b in zip(whole.bands, real.bands, strict=True):
        np.testing.assert_allclose(a.real, b, atol=1e-6)


def test_amplitude_of_a_grating_does_not_depend_on_its_phase():
    grating = jnp.sin(2 * jnp.pi * jnp.arange(64) / 6.4)[None] * jnp.ones((64, 1))
    amplitude = jnp.abs(pyramid.decompose(grating, 2).bands[0][0])
    assert float(amplitude.min()) > 0.1
    np.testing.assert_allclose(amplitude, amplitude.mean(), rtol=1e-4)


def test_energy_is_kept_up_to_sampling():
    plane = jax.random.normal(jax.random.key(2), (64, 64))
    split = pyramid.decompose(plane, 2, 4, False)
    parts = [split.high, split.low, *split.bands]
    density = sum(float((p**2).sum()) / (p.shape[-1] * p.shape[-2]) for p in parts)
    assert density == pytest.approx(float((plane**2).mean()), rel=1e-4)


def test_periodic_part_joins_at_the_edges():
    ramp = jnp.linspace(0, 1, 32)[:, None] + jnp.linspace(0, 3, 48)[None]
    part = pyramid.periodic_part(ramp)
    assert float(jnp.abs(part[0] - part[-1]).max()) < 0.1 * float(jnp.abs(ramp[0] - ramp[-1]).max())
    closed = ramp.at[-1].set(ramp[0]).at[:, -1].set(ramp[:, 0]).at[-1, -1].set(ramp[0, 0])
    np.testing.assert_allclose(pyramid.periodic_part(closed), closed, atol=1e-6)


def test_refine_keeps_constants_and_means():
    plane = jax.random.uniform(jax.random.key(3), (16, 24))
    fine = pyramid.refine(plane, (32, 48), 1.0)
    assert float(fine.mean()) == pytest.approx(float(plane.mean()), abs=1e-6)
    np.testing.assert_allclose(pyramid.refine(jnp.ones((16, 24)), (30, 48), 1.0), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "n_scales", "n_orientations"),
    [((15, 16), 1, 4), ((8, 8), 1, 4), ((64, 64), 9, 4), ((64, 64), 0, 4), ((64, 64), 2, 1)],
)
def test_sizes_and_counts_that_cannot_be_are_refused(size, n_scales, n_orientations):
    with pytest.raises(InputError):
        pyramid.decompose(jnp.ones(size), n_scales, n_orientations)
