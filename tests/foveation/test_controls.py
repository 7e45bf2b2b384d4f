"""Control systems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(KEY, (2, 64, 96, 3))


def test_raw_is_the_image(images):
    np.testing.assert_array_equal(fj.transform("raw", images, KEY), images)


@pytest.mark.parametrize("name", ["cortical_magnification", "contrast_sensitivity_blur"])
def test_constants_stay_and_values_stay_in_range(name, images):
    flat = jnp.full((1, 64, 96, 3), 0.4)
    np.testing.assert_allclose(fj.transform(name, flat, KEY), flat, atol=1e-5)
    seen = fj.transform(name, images, KEY, fixation=(-10.0, 120.0))
    assert float(seen.min()) >= -1e-6
    assert float(seen.max()) <= 1 + 1e-6


def test_magnification_loses_detail_with_eccentricity(images):
    smooth = fj.transform("uniform_blur", images, KEY, sigma=1.0)
    seen = fj.transform("cortical_magnification", smooth, KEY, half_eccentricity=4.0)
    error = np.asarray(jnp.abs(seen - smooth).mean((0, 3)))
    assert error[28:36, 44:52].mean() < 0.3 * error[:, :12].mean()


def test_contrast_sensitivity_blur_is_the_gaussian_that_halves_the_cutoff():
    # A grating at the cut-off of its own eccentricity keeps half its contrast.
    degrees, size = 100.0, (32, 2048)
    per_degree = size[1] / degrees
    ecc = 40.0
    cutoff = 2.3 * np.log(64) / (0.106 * (ecc + 2.3))
    x = np.arange(size[1])
    grating = 0.5 + 0.4 * np.sin(2 * np.pi * cutoff * x / per_degree)
    images = jnp.broadcast_to(jnp.asarray(grating)[None, None, :, None], (1, *size, 3))
    seen = fj.transform("contrast_sensitivity_blur", images, KEY, field_of_view=degrees)
    at = int((size[1] - 1) / 2 + ecc * per_degree)
    part = np.asarray(seen)[0, 16, at - 20 : at + 20, 0]
    assert (part.max() - part.min()) / 0.8 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cortical_magnification", {"half_eccentricity": 0.0}),
        ("cortical_magnification", {"field_of_view": -1.0}),
        ("contrast_sensitivity_blur", {"threshold": 1.5}),
        ("contrast_sensitivity_blur", {"decay": 0.0}),
    ],
)
def test_constants_out_of_range_are_refused(name, options, images):
    with pytest.raises(fj.InputError):
        fj.transform(name, images, KEY, **options)
