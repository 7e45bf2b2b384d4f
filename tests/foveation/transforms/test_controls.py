"""Control systems."""

import dataclasses

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


@pytest.fixture(scope="module")
def smooth():
    """A picture of slow waves in three colours [1, 48, 48, 3]."""
    y, x = jnp.meshgrid(jnp.arange(48.0), jnp.arange(48.0), indexing="ij")
    waves = [jnp.sin(a * y / 9 + b * x / 11 + c) for a, b, c in ((1, 2, 0), (2, -1, 1), (1, 1, 2))]
    return 0.5 + 0.4 * jnp.stack(waves, -1)[None]


def test_cortical_magnification_has_a_finite_and_right_gradient_at_a_pixel(smooth):
    """Central differences, of the pixel that is fixated within a fraction of the image's slope."""

    @jax.jit
    def near(fixation):
        seen = fj.transform("cortical_magnification", smooth, KEY, fixation=fixation)
        return seen[0, 22:25, 26:29]

    at = jnp.array([23.0, 27.0])
    slopes = np.asarray(jax.jit(jax.jacfwd(near))(at))
    steps = 0.02 * jnp.eye(2)
    measured = np.stack([(near(at + h) - near(at - h)) / 0.04 for h in steps], -1)
    assert np.isfinite(slopes).all()
    apart = np.abs(slopes - measured)
    image_slope = np.abs(np.stack(np.gradient(np.asarray(smooth[0]), axis=(0, 1)))[:, 23, 27]).max()
    assert apart[1, 1].max() < 0.3 * image_slope
    apart[1, 1] = 0
    assert apart.max() < 0.03 * image_slope


def test_cortical_magnification_passes_over_a_pixel_without_a_jump(smooth):
    @jax.jit
    def pixel(offset):
        at = jnp.array([23.0, 27.0]) + offset
        return fj.transform("cortical_magnification", smooth, KEY, fixation=at)[0, 23, 27]

    offsets = 0.01 * jnp.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0], [0.7, 0.7]])
    np.testing.assert_allclose(jax.vmap(pixel)(offsets), pixel(jnp.zeros(2))[None].repeat(5, 0),
                               atol=2e-3)  # fmt: skip


def test_gradients_by_a_fixation_on_or_between_pixels_are_finite(smooth):
    windows = fj.pooling_windows(0.6, (48, 48), published=False)

    def loss(fixation):
        sheet = fj.transform("cortical_magnification", smooth, KEY, fixation=fixation)
        graded = fj.transform("contrast_sensitivity_blur", smooth, KEY, fixation=fixation)
        factors = dataclasses.replace(windows, fixation=fixation).pixel_factors()
        return sum((x**2).sum() for x in (sheet, graded, *factors))

    places = jnp.array([(23.0, 27.0), (0.0, 0.0), (47.0, 3.0), (23.5, 23.5)])
    assert np.isfinite(jax.jit(jax.vmap(jax.grad(loss)))(places)).all()


def test_published_mixing_has_finite_slopes_where_a_window_shows_nothing():
    windows = fj.pooling_windows(0.4, (64, 64))
    assert (windows.cut_area == 0).any()
    slopes = jax.grad(lambda w: w.mixing().sum(), allow_int=True)(windows)
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))
