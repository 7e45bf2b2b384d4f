"""What `transform` takes: any size, grey pictures, half precision, a fixation for each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

import foveation_jax as fj
from foveation_jax.transforms import SYSTEMS, pyramid

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def photograph():
    """A photograph [1, 61, 61, 3]: odd sides."""
    return jnp.asarray(skimage.data.astronaut()[:488:8, :488:8] / 255, jnp.float32)[None]


@pytest.fixture(scope="module")
def photographs():
    """Two photographs [2, 48, 64, 3]."""
    picture = skimage.data.astronaut()
    return jnp.asarray(np.stack([picture[:384:8, ::8], picture[64:448:8, ::8]]) / 255, jnp.float32)


def test_fill_up_mirrors_and_leaves_what_is_whole():
    images = jnp.arange(17 * 24, dtype=jnp.float32).reshape(1, 17, 24, 1)
    filled = pyramid.fill_up(images)
    assert filled.shape == (1, 24, 24, 1)
    np.testing.assert_array_equal(filled[:, 17:], images[:, :9:-1])
    np.testing.assert_array_equal(pyramid.fill_up(filled), filled)


@pytest.mark.parametrize("route", ["disarray", "pyramid"])
def test_odd_sizes_are_textured_up_to_their_edges(photograph, route):
    seen = fj.transform("foveation_texture", photograph, KEY, route=route, fixation=(5.0, 30.0))
    assert seen.shape == photograph.shape
    change = np.abs(np.asarray(seen - photograph))[0].mean(-1)
    assert change[2:8, 28:33].max() < 0.02  # the fixation's place is in the image's pixels
    for edge in (change[-4:], change[:, :4], change[30:, -4:]):
        assert edge.mean() > 0.02
    reference = fj.transform("reference", photograph, KEY, route=route)
    np.testing.assert_allclose(reference, photograph, atol=1e-5)


def test_odd_sizes_have_statistics(photograph):
    same = fj.texture_statistics(photograph, photograph)
    assert all(np.nanmax(error) == 0 for error in same.errors.values())
    # One row more or less of a photograph changes its statistics little.
    half = fj.texture_statistics(photograph, 0.5 + (photograph - 0.5) / 2)
    outside = half.variance[2:5]  # the first rings lie in the fovea, where there are no windows
    np.testing.assert_allclose(outside, 0.25, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("foveation_texture", {"route": "disarray"}),
        ("foveation_texture", {"route": "pyramid"}),
        ("reference", {}),
        ("cortical_magnification", {}),
    ],
)
def test_grey_pictures_stay_grey(photographs, name, options):
    grey = photographs.mean(-1, keepdims=True)
    seen = fj.transform(name, grey, KEY, **options)
    assert seen.shape == grey.shape
    in_colour = fj.transform(name, jnp.repeat(grey, 3, -1), KEY, **options)
    np.testing.assert_allclose(seen, in_colour.mean(-1, keepdims=True), atol=1e-6)
    if name == "foveation_texture":
        assert float(jnp.abs(seen - grey).mean()) > 0.01


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_widened(photographs, dtype):
    half = photographs.astype(dtype)
    seen = fj.transform("foveation_texture", half, KEY)
    assert seen.dtype == jnp.float32
    widened = fj.transform("foveation_texture", half.astype(jnp.float32), KEY)
    np.testing.assert_array_equal(seen, widened)


@pytest.mark.parametrize("key", [0, 3.0, None, np.arange(2), jnp.zeros(2, int)])
@pytest.mark.parametrize("route", ["disarray", "pyramid", "vgg"])
def test_what_is_no_key_is_refused(photographs, route, key):
    with pytest.raises(fj.InputError, match=r"it must be one key, such as jax\.random\.key"):
        fj.transform("foveation_texture", photographs, key, route=route)


FIXATIONS = np.array([[10.0, 20.0], [40.5, 0.0]])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("foveation_texture", {"route": "disarray"}),
        ("foveation_texture", {"route": "pyramid"}),
        ("cortical_magnification", {}),
        ("contrast_sensitivity_blur", {}),
    ],
)
def test_every_image_may_have_a_fixation_of_its_own(photographs, name, options):
    seen = fj.transform(name, photographs, KEY, fixation=FIXATIONS, **options)
    for n, at in enumerate(FIXATIONS):
        alone = fj.transform(name, photographs[n : n + 1], KEY, fixation=tuple(at), **options)
        np.testing.assert_allclose(seen[n], alone[0], atol=1e-4)  # a fortieth of a grey level


def test_fixations_may_be_traced_and_options_arrays(photographs, monkeypatch):
    def lit(images, key, *, fixation=None, colour=None):
        y, x = jnp.asarray(fixation, jnp.float32)
        return 0.5 * images + colour.reshape(1, 1, 1, 3) * (y + x) / 200

    monkeypatch.setitem(SYSTEMS, "lit", lit)
    colour = jnp.array([0.1, 0.2, 0.3])
    seen = fj.transform("lit", photographs, KEY, fixation=FIXATIONS, colour=colour)
    for n, at in enumerate(FIXATIONS):
        np.testing.assert_allclose(
            seen[n], 0.5 * photographs[n] + at.sum() / 200 * colour.reshape(1, 1, 3), atol=1e-6
        )
    traced = jax.jit(lambda at: fj.transform("lit", photographs, KEY, fixation=at, colour=colour))(
        jnp.asarray(FIXATIONS)
    )
    np.testing.assert_allclose(traced, seen, atol=1e-6)


@pytest.mark.parametrize(
    ("fixation", "words"),
    [
        (np.zeros((3, 2)), r"shape \(3, 2\).*\(2, 2\), one for each image"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        ([[1, 2], [3, 64]], r"fixation 1 of 2 is \(3.0, 64.0\).* \(47, 63\)"),
        ([[1, 2], [3, np.nan]], "fixation 1 of 2"),
        ([1, 2, 3], "two finite numbers"),
        ([[1, 2], [3]], "two finite numbers"),
    ],
)
def test_fixations_that_are_none_are_refused(photographs, fixation, words):
    with pytest.raises(fj.InputError, match=words):
        fj.transform("foveation_texture", photographs, KEY, fixation=fixation)


@pytest.mark.parametrize("sigma", [np.inf, np.nan, -1.0])
def test_deviations_of_rings_are_finite(photograph, sigma):
    rings = fj.pooling_windows(0.4, (61, 61), published=False).n_rings
    with pytest.raises(fj.InputError, match=f"{rings} rings need as many deviations"):
        fj.transform("foveation_blur", photograph, KEY, sigma=(1.0,) * (rings - 1) + (sigma,))


@pytest.mark.parametrize("size", [(64.5, 64), (1, 64), (64, float("nan")), (64,), ("a", "b")])
def test_windows_are_of_whole_pixels(size):
    with pytest.raises(fj.InputError, match="whole numbers from 2 on"):
        fj.pooling_windows(0.4, size)


def test_metrics_need_channels(photograph):
    with pytest.raises(fj.InputError, match=r"ssim: the images have no channels.*\(1, 61, 61, 0\)"):
        fj.metrics.ssim(photograph[..., :0], photograph[..., :0])
