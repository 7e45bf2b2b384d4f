"""Uniform-Blur and Foveation-Blur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import foveation_jax as fj
from foveation_jax.transforms import matched
from foveation_jax.transforms.uniform_blur import blur, gaussian_matrix

KEY = jax.random.key(0)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.5, 9.0])
def test_blur_is_scipys(sigma):
    image = np.asarray(jax.random.uniform(KEY, (40, 54, 3)))
    ours = blur(jnp.asarray(image), jnp.float32(sigma))
    theirs = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect", truncate=9)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_rows_of_the_matrix_add_to_one_and_zero_sigma_is_the_identity():
    np.testing.assert_allclose(gaussian_matrix(jnp.float32(50.0), 16).sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(gaussian_matrix(jnp.float32(0.0), 8), np.eye(8))


def test_gradient_in_sigma_agrees_with_finite_differences():
    image = jax.random.uniform(KEY, (24, 24, 3))

    def loss(sigma):
        return (blur(image, sigma) ** 2).sum()

    measured = (loss(jnp.float32(2.01)) - loss(jnp.float32(1.99))) / 0.02
    assert float(jax.grad(loss)(jnp.float32(2.0))) == pytest.approx(float(measured), rel=1e-2)


def test_foveation_blur_is_clear_in_the_fovea_and_blurred_outside():
    images = jax.random.uniform(KEY, (2, 128, 128, 3))
    rings = fj.pooling_windows(0.4, (128, 128), published=False).n_rings
    seen = fj.transform("foveation_blur", images, KEY, sigma=(2.0,) * rings)
    np.testing.assert_array_equal(seen[:, 60:68, 60:68], images[:, 60:68, 60:68])
    uniform = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    np.testing.assert_allclose(seen[:, :20], uniform[:, :20], atol=1e-5)


def test_shipped_sigmas_grow_with_eccentricity_and_follow_the_resolution():
    record = matched.shipped("foveation_blur")
    assert (np.diff(record.sigma_deg) > 0).all()
    assert max(abs(g) for g in record.gap) < 0.002
    assert abs(matched.shipped("uniform_blur").gap[0]) < 0.002
    images = jax.random.uniform(KEY, (1, 64, 64, 3))
    sigma = matched.shipped("uniform_blur").sigma_deg[0] * 64 / 26
    np.testing.assert_allclose(
        fj.transform("uniform_blur", images, KEY),
        fj.transform("uniform_blur", images, KEY, sigma=sigma),
        atol=1e-6,
    )
    fixated = fj.transform("foveation_blur", images, KEY, fixation=(-40.0, 80.0))
    assert np.isfinite(fixated).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform_blur", {"sigma": -1.0}),
        ("uniform_blur", {"sigma": float("nan")}),
        ("uniform_blur", {"scale": 0.5}),
        ("foveation_blur", {"sigma": (1.0, 2.0)}),
        ("foveation_blur", {"sigma": (-1.0,) * 7}),
        ("foveation_blur", {"scale": 0.5}),
        ("foveation_blur", {"matched": "no/such/file.json"}),
    ],
)
def test_bad_options_are_refused(name, options):
    with pytest.raises(fj.InputError):
        fj.transform(name, jnp.zeros((1, 32, 32, 3)), KEY, **options)


def test_a_record_of_another_system_is_refused():
    record = matched.shipped("uniform_blur")
    with pytest.raises(fj.InputError, match="record is of uniform_blur"):
        fj.transform("foveation_blur", jnp.zeros((1, 32, 32, 3)), KEY, matched=record)
