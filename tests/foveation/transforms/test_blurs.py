"""Uniform-Blur and Foveation-Blur."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import foveation_jax as fj
from foveation_jax.transforms import matched
from foveation_jax.transforms.foveation_texture import DEFAULT
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
    for system in ("uniform_blur", "foveation_blur"):
        assert matched.shipped(system).target == f"foveation_texture, {DEFAULT} route"
    assert record.largest_gap < 0.004
    assert abs(record.whole_gap) < 0.001
    assert record.n_images == 1000
    assert abs(matched.shipped("uniform_blur").gap[0]) < 0.002
    images = jax.random.uniform(KEY, (1, 64, 64, 3))
    sigma = matched.shipped("uniform_blur").sigma_deg[0] * 64 / 26
    with pytest.warns(UserWarning, match="here: 64 x 64 pixels"):
        seen = fj.transform("uniform_blur", images, KEY)
    expected = fj.transform("uniform_blur", images, KEY, sigma=sigma)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    with pytest.warns(UserWarning, match="fixation"):
        fixated = fj.transform("foveation_blur", images, KEY, fixation=(-40.0, 80.0))
    assert np.isfinite(fixated).all()


def test_sigmas_may_be_traced():
    """So that they can be fitted by gradient; under vmap, a sigma an image."""
    image = jax.random.uniform(KEY, (1, 32, 32, 3))
    rings = fj.pooling_windows(0.4, (32, 32), published=False).n_rings
    for name, sigma in (("uniform_blur", 1.5), ("foveation_blur", (1.5,) * rings)):

        def seen(sigma, name=name):
            return fj.transform(name, image, KEY, sigma=sigma)

        expected = seen(sigma)
        np.testing.assert_allclose(jax.jit(seen)(jnp.asarray(sigma)), expected, atol=1e-6)
        both = jax.vmap(seen)(jnp.stack([jnp.asarray(sigma), 2 * jnp.asarray(sigma)]))
        np.testing.assert_allclose(both[0], expected, atol=1e-5)
        slope = jax.grad(lambda s, f=seen: f(s).var())(jnp.asarray(sigma))
        assert float(slope.sum()) < 0


@pytest.fixture(autouse=True)
def _nothing_said():
    matched._say.cache_clear()


@pytest.fixture
def record():
    """Shipped sigmas, as if they were matched at 32 x 32."""
    shipped = matched.shipped("foveation_blur")
    return dataclasses.replace(shipped, size=(32, 32), fixation=(15.5, 15.5))


def test_a_blur_without_a_record_says_once_what_its_sigmas_were_matched_on():
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.warns(UserWarning, match="foveation_blur: its shipped sigmas") as said:
        fj.transform("foveation_blur", images, KEY, field_of_view=13.0)
    (sentence,) = (str(warning.message) for warning in said)
    for fact in ("foveation_texture", "0.4", "256 x 256 pixels", "(127.5, 127.5)", "26.0 degrees",
                 "1000 colour photographs", "here: 32 x 32 pixels, fixation (15.5, 15.5), "
                 "13.0 degrees", "fj.match", "fj.check_match"):  # fmt: skip
        assert fact in sentence
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fj.transform("foveation_blur", images, KEY, field_of_view=13.0)
    # No one has looked at these pictures, so it is said where the geometry is the record's too.
    with pytest.warns(UserWarning, match="photographs of 20 scene classes"):
        fj.transform("uniform_blur", jnp.zeros((1, 256, 256, 3)), KEY)


def test_a_record_that_fits_is_taken_in_silence(record):
    images = jnp.zeros((1, 32, 32, 3))
    fj.transform("foveation_blur", images, KEY, matched=record)
    fj.transform("foveation_blur", images, KEY, matched=record, fixation=(15.5, 15.5))
    drawn = dataclasses.replace(record, fixation=None)  # eye movements: any fixation fits
    fj.transform("foveation_blur", images, KEY, matched=drawn, fixation=(3.0, 4.0))
    seen = jax.jit(
        lambda at: fj.transform("foveation_blur", images, KEY, matched=drawn, fixation=at)
    )
    assert np.isfinite(seen(jnp.array([3.0, 4.0]))).all()


@pytest.mark.parametrize(
    ("size", "options", "told"),
    [
        ((64, 32), {}, "here: 64 x 32 pixels"),
        ((32, 32), {"fixation": (0, 15.5)}, "here: fixation"),
        ((32, 32), {"field_of_view": 13.0}, "here: 13.0 degrees"),
    ],
)
def test_a_record_of_another_geometry_is_taken_with_a_warning(record, size, options, told):
    with pytest.warns(UserWarning, match=told):
        fj.transform("foveation_blur", jnp.zeros((1, *size, 3)), KEY, matched=record, **options)


def test_a_fixation_on_the_device_is_no_records(record):
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.warns(UserWarning, match="here: fixation one a picture"):
        jax.eval_shape(
            lambda at: fj.transform("foveation_blur", images, KEY, matched=record, fixation=at),
            jnp.array([3.0, 4.0]),
        )


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
