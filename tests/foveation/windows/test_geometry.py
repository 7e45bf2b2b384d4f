"""Pixels and degrees, eccentricity and angle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foveation_jax.runs.errors import InputError
from foveation_jax.windows import geometry


def test_published_geometry_is_512_pixels_in_26_degrees():
    assert geometry.pixels_per_degree((512, 512)) == pytest.approx(512 / 26)
    assert geometry.centre((512, 300)) == (255.5, 149.5)


def test_degrees_and_pixels_invert_each_other():
    positions = jax.random.normal(jax.random.key(0), (4, 5, 2)) * 100
    fixation = jnp.array([-30.0, 700.0])
    degrees = geometry.to_degrees(positions, fixation, 19.7)
    np.testing.assert_allclose(geometry.to_pixels(degrees, fixation, 19.7), positions, atol=1e-4)


def test_polar_angle_is_zero_to_the_right_and_grows_downwards():
    log_ecc, angle = geometry.polar(
        jnp.array([0.0, 10.0]), jnp.array([5.0, 15.0]), jnp.array([0.0, 5.0]), 10.0
    )
    np.testing.assert_allclose(angle[0, 1], 0, atol=1e-6)
    np.testing.assert_allclose(angle[1, 0], np.pi / 2, atol=1e-6)
    np.testing.assert_allclose(log_ecc[1], [0, np.log(np.sqrt(2))], atol=1e-6)
    np.testing.assert_allclose(log_ecc[0, 0], np.log(1e-6), atol=1e-6)


def test_gradient_at_the_fixation_itself_is_finite():
    def total(fixation):
        return sum(v.sum() for v in geometry.polar(jnp.arange(3.0), jnp.arange(3.0), fixation, 1.0))

    assert np.isfinite(jax.grad(total)(jnp.ones(2))).all()


@pytest.mark.parametrize("degrees", [0.0, -1.0, 361.0, float("nan")])
def test_field_of_view_out_of_range_is_refused(degrees):
    with pytest.raises(InputError, match="field_of_view"):
        geometry.pixels_per_degree((8, 8), degrees)
