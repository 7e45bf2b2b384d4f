"""The metric panel against scikit-image, piq, pytorch-msssim and scikit-learn; identities."""

import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveation_jax import metrics
from foveation_jax.metrics.checks import check_pair
from foveation_jax.runs.errors import InputError

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens" / "foveation"
A, B = map(jnp.asarray, runpy.run_path(str(GOLDENS / "metrics.py"))["pictures"]())
EXPECTED = json.loads((GOLDENS / "metrics.json").read_text())
DIFFERENTIABLE = sorted(set(metrics.METRICS) - {"mutual_information"})
PERFECT = {"mse": 0, "mae": 0, "psnr": np.inf, "ssim": 1, "ms_ssim": 1, "gmsd": 0, "vif": 1}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("ssim", 2e-5),
        ("ms_ssim", 2e-5),
        ("psnr", 1e-4),
        ("gmsd", 2e-6),
        ("vif", 1e-5),
        ("mutual_information", 1e-4),
    ],
)
def test_agrees_with_independent_implementation(name, tolerance):
    got = metrics.METRICS[name](A, B)
    np.testing.assert_allclose(got, EXPECTED[name], atol=tolerance, rtol=0)


def test_ssim_map_agrees_with_scikit_image_up_to_the_edges():
    got = metrics.ssim_map(A, B)
    assert got.shape == A.shape
    np.testing.assert_allclose(got[:, :3, :3], EXPECTED["ssim_map_corner"], atol=5e-5, rtol=0)
    np.testing.assert_allclose(got.mean((1, 2, 3)), EXPECTED["ssim_map_mean"], atol=2e-5, rtol=0)


def test_ssim_is_the_mean_of_its_map_five_pixels_inside():
    inner = metrics.ssim_map(A, B)[:, 5:-5, 5:-5].mean((1, 2, 3))
    np.testing.assert_allclose(metrics.ssim(A, B), inner, atol=1e-6)


@pytest.mark.parametrize("name", ["ssim", "vif"])
def test_a_metric_is_one_program(name):
    found = []

    def heard(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            found.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        metrics.METRICS[name](*np.random.default_rng(0).random((2, 1, 41, 43, 3), np.float32))
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert [fun for fun in found if fun != "jit(_looked_at)"] == [f"jit({name})"]


@pytest.mark.parametrize("name", sorted(PERFECT))
def test_equal_images_score_perfectly(name):
    np.testing.assert_allclose(metrics.METRICS[name](A, A), PERFECT[name], atol=1e-5)


def test_mutual_information_with_itself_is_the_entropy():
    levels = jnp.repeat(jnp.arange(4), 16).reshape(1, 8, 8, 1) / 3.0
    np.testing.assert_allclose(metrics.mutual_information(levels, levels), 2.0, atol=1e-6)
    shuffled = jnp.tile(jnp.arange(4), 16).reshape(1, 8, 8, 1) / 3.0
    np.testing.assert_allclose(metrics.mutual_information(levels, shuffled), 0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["mse", "mae", "psnr", "ssim", "ms_ssim", "gmsd"])
def test_symmetric(name):
    metric = metrics.METRICS[name]
    np.testing.assert_allclose(metric(A, B), metric(B, A), rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([(11, 11), (12, 31), (40, 17)]),
    channels=st.sampled_from([1, 3]),
)
def test_ssim_bounds_and_order_of_distortion(seed, size, channels):
    random = np.random.RandomState(seed)
    ssim = metrics.METRICS["ssim"]
    image, other = jnp.asarray(random.uniform(size=(2, 1, *size, channels)), jnp.float32)
    near = image + 0.1 * (other - image)
    assert -1 <= ssim(image, other)[0] <= ssim(image, near)[0] <= 1
    assert metrics.METRICS["mae"](image, other)[0] ** 2 <= metrics.METRICS["mse"](image, other)[0]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_is_finite_and_follows_the_metric(name):
    metric = metrics.METRICS[name]
    direction = jnp.asarray(A[:1] - B[:1])

    def along(step):
        return metric(B[:1] + step * direction, A[:1])[0]

    slope = jax.jit(jax.grad(along))(0.3)
    h = 1e-2
    difference = (along(0.3 + h) - along(0.3 - h)) / (2 * h)
    assert np.isfinite(slope)
    assert slope != 0
    np.testing.assert_allclose(slope, difference, rtol=2e-2)


@pytest.mark.parametrize("name", ["ms_ssim", "gmsd", "vif"])
def test_gradient_is_finite_on_flat_images(name):
    flat = jnp.full((1, 176, 176, 3), 0.5)
    other = A[:1, :176, :176]
    gradient = jax.jit(jax.grad(lambda image: metrics.METRICS[name](image, other).sum()))(flat)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_is_finite_where_images_are_equal(name):
    slope = jax.jit(jax.grad(lambda image, other: metrics.METRICS[name](image, other).sum()))
    for image in (A[:1, :176, :176], jnp.zeros((1, 176, 176, 3))):
        assert np.isfinite(slope(image, image)).all()


@pytest.mark.parametrize("other", [B[:, :, :-1], B[0], B[..., :1]])
def test_refuses_other_shapes(other):
    # Asked directly: the checked annotations of the metrics themselves complain first in tests.
    with pytest.raises(InputError, match=r"ssim: two batches .*\(3, 177, 190, 3\)"):
        check_pair("ssim", A, other)


@pytest.mark.parametrize(
    ("name", "least"), [("ssim", 11), ("ms_ssim", 161), ("gmsd", 3), ("vif", 41)]
)
def test_refuses_images_below_the_least_size(name, least):
    small = jnp.zeros((1, least - 1, 200, 3))
    with pytest.raises(InputError, match=f"{name}: .*{least} x {least} is the least"):
        metrics.METRICS[name](small, small)
    enough = np.full((1, least, least, 3), 0.5, np.float32)
    assert np.isfinite(metrics.METRICS[name](enough, enough)).all()
