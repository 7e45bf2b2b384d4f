"""Foveation-Texture by the pyramid route: what it keeps, what it changes, gradients, registry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

import foveation_jax as fj
from foveation_jax.transforms import noise, pyramid
from foveation_jax.transforms.texture import pyramid_texture
from foveation_jax.transforms.uniform_blur import blur


def texture_of(images, key, **options):
    return fj.transform("foveation_texture", images, key, route="pyramid", **options)


@pytest.fixture(scope="module")
def photograph():
    """A photograph [1, 256, 256, 3]."""
    return jnp.asarray(skimage.data.astronaut()[::2, ::2], jnp.float32)[None] / 255


@pytest.fixture(scope="module")
def textured(photograph):
    return texture_of(photograph, jax.random.key(0))


def eccentricity(n, field_of_view=26.0):
    at = (np.arange(n) - (n - 1) / 2) * field_of_view / n
    return np.hypot(at[:, None], at[None])


def test_reference_and_no_mixing_give_the_image_back(photograph):
    reference = fj.transform("reference", photograph, jax.random.key(0))
    np.testing.assert_allclose(reference, photograph, atol=1e-5)
    windows = fj.pooling_windows(0.4, (256, 256), published=False)
    clear = dataclasses.replace(windows, kept=jnp.zeros_like(windows.kept))
    image = pyramid_texture(photograph, jax.random.key(0), clear, 3)
    np.testing.assert_allclose(image, photograph, atol=1e-5)


def test_the_centre_degree_is_the_image(photograph, textured):
    centre = eccentricity(256) < 1
    assert float(jnp.abs(textured - photograph)[0, centre].mean()) < 0.01


def band_covariances(image, mask):
    """Covariance over colours of each orientation of the second octave, where `mask` is."""
    band = pyramid.decompose(jnp.moveaxis(image, -1, 0), 2, 4, False).bands[1]
    part = np.asarray(band)[..., mask]
    return np.einsum("cop,dop->ocd", part, part) / mask.sum(), part


def test_the_periphery_keeps_statistics_and_not_pixels(photograph, textured):
    assert float(textured.min()) >= 0
    assert float(textured.max()) <= 1
    ecc = eccentricity(128)
    for near, far in ((6, 9), (9, 18)):
        ring = (ecc > near) & (ecc < far)
        before, a = band_covariances(photograph[0], ring)
        after, b = band_covariances(textured[0], ring)
        power = after.trace(axis1=1, axis2=2) / before.trace(axis1=1, axis2=2)
        assert (power > 0.5).all()
        assert (power < 1.3).all()
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.65
    assert float(jnp.abs(textured.mean((1, 2)) - photograph.mean((1, 2))).max()) < 0.02


def test_colour_covariance_of_a_texture_is_kept():
    mix = jnp.array([[0.10, 0.06, 0.02], [0, 0.05, 0.04], [0, 0, 0.02]])
    white = jax.random.normal(jax.random.key(5), (256, 256, 3))
    image = jnp.clip(0.5 + blur(white, jnp.float32(0.8)) @ mix * 2, 0, 1)
    seen = texture_of(image[None], jax.random.key(0))[0]
    ring = (eccentricity(128) > 6) & (eccentricity(128) < 12)
    before, _ = band_covariances(image, ring)
    after, _ = band_covariances(seen, ring)
    for x, y in zip(before, after, strict=True):
        # The envelope m carries some energy out of the band: 17 % here.
        assert np.abs(x - y).max() < 0.2 * np.abs(x).max()


def test_a_grey_image_stays_grey(photograph):
    grey = jnp.broadcast_to(photograph.mean(-1, keepdims=True), photograph.shape)
    seen = texture_of(grey, jax.random.key(0))
    assert float((seen.max(-1) - seen.min(-1)).max()) < 0.02
    assert float((seen.max(-1) - seen.min(-1)).mean()) < 0.002


def test_a_flat_image_stays_flat():
    flat = jnp.full((1, 64, 64, 3), 0.3)
    seen = texture_of(flat, jax.random.key(0))
    np.testing.assert_allclose(seen, flat, atol=5e-3)


def test_edges_are_textured_like_the_rest_unless_published(photograph):
    texture = {
        published: texture_of(photograph, jax.random.key(0), published=published)
        for published in (False, True)
    }
    change = {p: np.asarray(jnp.abs(v - photograph)[0].mean(-1)) for p, v in texture.items()}
    corner = (slice(0, 12), slice(0, 12))
    assert change[False][corner].mean() > change[True][corner].mean()


def test_an_image_is_the_same_alone_and_in_a_batch_and_sharded(photograph, textured):
    batch = jnp.concatenate([photograph[:, ::-1], photograph])
    together = texture_of(batch, jax.random.key(0))
    np.testing.assert_allclose(together[1], textured[0], atol=1e-5)
    mesh = jax.make_mesh((2,), ("images",))
    spec = jax.sharding.PartitionSpec("images")
    on_each = jax.shard_map(
        lambda part: texture_of(part, jax.random.key(0)),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    split = jax.device_put(batch, jax.sharding.NamedSharding(mesh, spec))
    sharded = jax.jit(on_each)(split)
    np.testing.assert_allclose(sharded, together, atol=1e-5)


def test_keys_matter_and_repeat(photograph, textured):
    again = texture_of(photograph, jax.random.key(0))
    other = texture_of(photograph, jax.random.key(1))
    np.testing.assert_array_equal(again, textured)
    assert float(jnp.abs(other - textured).mean()) > 0.02


def test_scrambled_windows_take_other_statistics(photograph, textured):
    scrambled = texture_of(photograph, jax.random.key(0), scramble=True)
    centre = eccentricity(256) < 1
    assert float(jnp.abs(scrambled - photograph)[0, centre].mean()) < 0.01
    assert float(jnp.abs(scrambled - textured).mean()) > 0.02


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        image = jax.random.uniform(jax.random.key(0), (1, 32, 48, 3), jnp.float64) * 0.4 + 0.3
        weight = jax.random.normal(jax.random.key(1), image.shape, jnp.float64)
        windows = fj.pooling_windows(0.6, (32, 48), (14.2, 20.3), published=False)

        def loss(image, fixation, scale):
            moved = dataclasses.replace(windows, fixation=fixation, scale=scale)
            return (pyramid_texture(image, jax.random.key(2), moved, 1) * weight).sum()

        both = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))  # one program for both
        at = (image, jnp.array([14.2, 20.3]), jnp.array(0.6))
        for i, gradient in enumerate(both(*at)[1]):
            assert np.isfinite(gradient).all()
            direction = jax.random.normal(jax.random.key(3), at[i].shape, jnp.float64)
            ends = [
                both(*at[:i], at[i] + sign * 1e-6 * direction, *at[i + 1 :])[0] for sign in (1, -1)
            ]
            measured = float(ends[0] - ends[1]) / 2e-6
            assert float((gradient * direction).sum()) == pytest.approx(measured, rel=2e-4)


def test_coral_gives_noise_the_image_colours(photograph):
    white = noise.white_noise(jax.random.key(0), (256, 256, 3))
    coloured = noise.coral(white, photograph[0])
    np.testing.assert_allclose(coloured.mean((0, 1)), photograph[0].mean((0, 1)), atol=1e-4)
    shuffled = jax.random.permutation(jax.random.key(1), photograph[0].reshape(-1, 3))
    shuffled = shuffled.reshape(256, 256, 3)
    np.testing.assert_allclose(noise.coral(shuffled, photograph[0]), shuffled, atol=1e-4)


def test_regional_coral_follows_the_image(photograph):
    windows = fj.pooling_windows(0.4, (256, 256), published=False)
    halves = jnp.zeros((256, 256, 3)).at[:, 128:].set(jnp.array([1.0, 0.5, 0.0]))
    white = noise.white_noise(jax.random.key(0), halves.shape)
    coloured = noise.regional_coral(white, halves, windows)
    np.testing.assert_allclose(coloured[60:190, 235:].mean((0, 1)), [1, 0.5, 0], atol=0.02)
    np.testing.assert_allclose(coloured[60:190, :20].mean((0, 1)), 0, atol=0.02)


def test_register_adds_a_system_once():
    fj.register("negative_for_test", lambda images, key, **options: 1 - images)
    images = jnp.full((1, 4, 4, 3), 0.25)
    assert float(fj.transform("negative_for_test", images, jax.random.key(0)).max()) == 0.75
    with pytest.raises(fj.InputError, match="taken"):
        fj.register("negative_for_test", lambda images, key: images)


@pytest.mark.parametrize(
    ("name", "images", "options", "words"),
    [
        ("foveation_textur", (1, 32, 32, 3), {}, "did you mean 'foveation_texture'"),
        ("foveation_texture", (1, 32, 32, 3), {"scal": 1}, "did you mean 'scale'"),
        ("foveation_texture", (1, 32, 32, 3), {"scale": 9.0}, "scale is 9.0"),
        ("foveation_texture", (1, 32, 32, 3), {"route": "x"}, "route"),
        ("foveation_texture", (1, 32, 32, 3), {"n_scales": 8, "route": "pyramid"}, "carries"),
        ("foveation_texture", (32, 32, 3), {}, "shape"),
        ("foveation_texture", (1, 32, 32, 4), {}, "shape"),
        ("foveation_texture", (0, 32, 32, 3), {}, "shape"),
        ("foveation_texture", (1, 8, 8, 3), {}, "16 pixels or more"),
        ("reference", (1, 32, 32, 3), {"route": "x"}, "route"),
    ],
)
def test_bad_calls_are_refused(name, images, options, words):
    with pytest.raises(fj.InputError, match=words):
        fj.transform(name, jnp.zeros(images), jax.random.key(0), **options)


@pytest.mark.parametrize("value", [float("nan"), 2.0, -1.0])
def test_values_out_of_range_are_refused(value):
    images = jnp.zeros((1, 32, 32, 3)).at[0, 3, 4, 1].set(value)
    with pytest.raises(fj.InputError, match="within 0 and 1"):
        fj.transform("raw", images, jax.random.key(0))
    with pytest.raises(fj.InputError, match="floating"):
        fj.transform("raw", images.astype(int), jax.random.key(0))
