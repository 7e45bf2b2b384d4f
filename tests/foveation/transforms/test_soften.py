"""A Reference that loses what the published one loses, shared by every system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.transforms import options_for
from foveation_jax.transforms.soften import soften
from foveation_jax.transforms.texture_statistics import LUMA, difference_of_gaussians
from foveation_jax.transforms.uniform_blur import blur_batch

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def softened(photographs):
    return fj.transform("reference", photographs, KEY, soft=1.0)


def test_it_loses_about_what_the_published_reference_loses(photographs, softened):
    assert float(softened.min()) >= 0
    assert float(softened.max()) <= 1
    assert 0.5 < float(fj.metrics.ssim(softened, photographs).mean()) < 0.8
    energies = [
        (difference_of_gaussians(x @ LUMA) ** 2).mean((0, 2, 3)) for x in (softened, photographs)
    ]
    # 128 pixels: an octave finer than at 256, where the kept shares are .2 .4 .7 .9
    np.testing.assert_allclose((energies[0] / energies[1])[:3], [0.4, 0.7, 0.9], atol=0.15)
    half = fj.transform("reference", photographs, KEY, soft=0.5)
    errors = [float(((x - photographs) ** 2).mean()) for x in (half, softened)]
    assert 0 < errors[0] < 0.7 * errors[1]
    np.testing.assert_array_equal(soften(photographs, 0.0), photographs)


def test_every_system_starts_from_it(photographs, softened):
    blurred = fj.transform("uniform_blur", photographs, KEY, sigma=2.0, soft=1.0)
    np.testing.assert_allclose(blurred, blur_batch(softened, jnp.float32(2.0)), atol=1e-5)
    texture = fj.transform("foveation_texture", photographs, KEY, soft=1.0, route="pyramid")
    own = fj.transform("foveation_texture", softened, KEY, route="pyramid")
    np.testing.assert_allclose(texture, own, atol=1e-4)
    at = np.array([[60.0, 60.0], [20.0, 90.0]])
    seen = fj.transform("cortical_magnification", photographs, KEY, soft=1.0, fixation=at)
    own = fj.transform("cortical_magnification", softened, KEY, fixation=at)
    np.testing.assert_allclose(seen, own, atol=1e-4)
    assert options_for("raw", {"soft": 0.5, "scale": 0.4}) == {"soft": 0.5}
    assert options_for("raw", {"soft": 0.0}) == {}


def test_gradients_are_finite_and_grey_stays_grey(photographs):
    small = photographs[:, ::4, ::4]
    slope = jax.grad(lambda x: (soften(x, 1.0) ** 2).sum())(small)
    assert np.isfinite(slope).all()
    assert float(jnp.abs(slope).max()) > 0
    grey = jnp.broadcast_to(small.mean(-1, keepdims=True), small.shape)
    seen = soften(grey, 1.0)
    assert float((seen.max(-1) - seen.min(-1)).max()) < 1e-5
    np.testing.assert_allclose(soften(jnp.full_like(small, 0.3), 1.0), 0.3, atol=1e-5)


@pytest.mark.parametrize("soft", [-0.1, 3.0, float("nan")])
def test_levels_out_of_range_are_refused(photographs, soft):
    with pytest.raises(fj.InputError, match=r"soft is .*allowed is 0 to 2"):
        fj.transform("reference", photographs, KEY, soft=soft)
