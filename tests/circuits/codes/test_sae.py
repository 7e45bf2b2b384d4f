"""ONE head's autoencoder against plain numpy, and its geometry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuits_jax.codes import sae

N, R, F, D = 6, 5, 7, 11
RELU = sae.SaeConfig(n_codes=F, steps=60)
TOPK = dataclasses.replace(RELU, activation="topk", k=2)
SETTINGS = sae.Settings(l1=0.03, learning_rate=1e-2)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((N, R)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    """Random parameters with biases, directions of norm 1."""
    rng = np.random.default_rng(1)
    shapes = {"encoder": (R, F), "encoder_bias": F, "decoder": (F, R), "bias": R}
    values = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}
    return sae.unit_norm(sae.SaeParams(**values))


def norms(params):
    return np.linalg.norm(params.encoder, axis=0), np.linalg.norm(params.decoder, axis=1)


def plain_activations(params, x):
    p = {f.name: np.asarray(getattr(params, f.name), float) for f in dataclasses.fields(params)}
    return np.maximum((np.asarray(x) - p["bias"]) @ p["encoder"] + p["encoder_bias"], 0), p


def test_relu_loss_is_the_published_formula(params, x):
    h, p = plain_activations(params, x)
    given, x = x, np.asarray(x)
    error = np.sum((h @ p["decoder"] + p["bias"] - x) ** 2) / (N * D)
    wanted = error + 0.03 * np.mean(np.sum(h, axis=1))
    np.testing.assert_allclose(sae.loss(params, given, SETTINGS, RELU, D), wanted, rtol=1e-5)
    full = np.mean((h @ p["decoder"] + p["bias"] - x) ** 2) + 0.03 * np.mean(np.sum(h, axis=1))
    np.testing.assert_allclose(sae.loss(params, given, SETTINGS, RELU, R), full, rtol=1e-5)


def test_topk_keeps_the_largest_and_has_no_penalty(params, x):
    h, p = plain_activations(params, x)
    given, x = x, np.asarray(x)
    kept = np.where(h >= np.sort(h, axis=1)[:, [-2]], h, 0)
    found = np.asarray(sae.encode(params, given, TOPK))
    np.testing.assert_allclose(found, kept, rtol=1e-4, atol=1e-6)
    assert (np.count_nonzero(found, axis=1) <= 2).all()
    assert (np.count_nonzero(found, axis=1) == np.minimum(np.count_nonzero(h, axis=1), 2)).all()
    wanted = np.sum((kept @ p["decoder"] + p["bias"] - x) ** 2) / (N * D)
    np.testing.assert_allclose(sae.loss(params, given, SETTINGS, TOPK, D), wanted, rtol=1e-5)


def test_init_is_unit_norm_and_unbiased():
    params = sae.init(np.random.default_rng(0), R, RELU)
    assert params.encoder.shape == (R, F)
    assert params.decoder.shape == (F, R)
    for norm in norms(params):
        np.testing.assert_allclose(norm, 1, rtol=1e-5)
    assert not params.bias.any()
    assert not params.encoder_bias.any()
    other = sae.init(np.random.default_rng(1), R, RELU)
    assert not np.allclose(params.encoder, other.encoder)


def test_the_first_of_many_starts_are_those_of_fewer():
    many = sae.init(np.random.default_rng(0), R, RELU, (3, 2))
    few = sae.init(np.random.default_rng(0), R, RELU, (1, 2))
    assert many.encoder.shape == (3, 2, R, F)
    np.testing.assert_array_equal(many.encoder[:1], few.encoder)
    np.testing.assert_array_equal(many.decoder[:1], few.decoder)


def test_unit_norm_leaves_zero_directions_finite(params):
    silent = params.replace(encoder=params.encoder.at[:, 0].set(0))
    assert not sae.unit_norm(silent).encoder[:, 0].any()
    assert np.isfinite(sae.unit_norm(silent).encoder).all()


def test_tangent_removes_the_parallel_part_only(params, x):
    gradient = jax.grad(sae.loss)(params, x, SETTINGS, RELU, D)
    across = sae.tangent(gradient, params)
    parallel = np.sum(np.asarray(gradient.encoder * params.encoder), axis=0)
    assert np.abs(parallel).max() > 1e-3
    np.testing.assert_allclose(jnp.sum(across.encoder * params.encoder, 0), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(across.decoder * params.decoder, 1), 0, atol=1e-6)
    np.testing.assert_allclose(
        across.encoder + params.encoder * parallel[None], gradient.encoder, atol=1e-6
    )
    np.testing.assert_array_equal(across.bias, gradient.bias)
    np.testing.assert_array_equal(across.encoder_bias, gradient.encoder_bias)


def test_a_small_step_along_the_tangent_lowers_the_loss(params, x):
    before = sae.loss(params, x, SETTINGS, RELU, D)
    across = sae.tangent(jax.grad(sae.loss)(params, x, SETTINGS, RELU, D), params)
    stepped = sae.unit_norm(jax.tree.map(lambda p, g: p - 1e-2 * g, params, across))
    squared = sum(jnp.sum(g * g) for g in jax.tree.leaves(across))
    fall = before - sae.loss(stepped, x, SETTINGS, RELU, D)
    np.testing.assert_allclose(fall, 1e-2 * squared, rtol=0.1)  # first order in the step


@pytest.mark.parametrize("config", [RELU, TOPK])
def test_training_lowers_the_loss_and_keeps_unit_norms(x, config):
    start = sae.init(np.random.default_rng(0), R, config)
    params, losses = sae.train(start, x, SETTINGS, config, R)
    assert losses.shape == (config.steps,)
    assert losses[-1] < 0.7 * losses[0]
    np.testing.assert_allclose(losses[0], sae.loss(start, x, SETTINGS, config, R), rtol=1e-5)
    for norm in norms(params):
        np.testing.assert_allclose(norm, 1, rtol=1e-5)


def test_training_is_adam_in_plain_numpy(x):
    """Three steps with the textbook Adam on autodiff's gradients."""
    config = dataclasses.replace(RELU, steps=3)
    params = sae.init(np.random.default_rng(3), R, config)
    found, losses = sae.train(params, x, SETTINGS, config, R)
    first = second = jax.tree.map(jnp.zeros_like, params)
    for step in range(1, 4):
        value, g = jax.value_and_grad(sae.loss)(params, x, SETTINGS, config, R)
        np.testing.assert_allclose(losses[step - 1], value, rtol=1e-5)
        g = sae.tangent(g, params)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, g)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, g)
        params = sae.unit_norm(
            jax.tree.map(
                lambda p, m, v, s=step: (
                    p - 1e-2 * (m / (1 - 0.9**s)) / (jnp.sqrt(v / (1 - 0.999**s)) + 1e-8)
                ),
                params,
                first,
                second,
            )
        )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_silent_rows_get_a_code_of_their_own():
    h = jnp.array([[0.0, 0, 0], [0, 2, 1], [1, 0, 0], [3, 3, 0]])
    assert sae.code(h).tolist() == [3, 1, 0, 0]


ROWS = arrays(
    np.float32,
    st.sampled_from([(1, 1), (1, 4), (3, 1), (4, 9), (7, 3)]),  # each is compiled
    elements=st.floats(-4, 4, width=32),
)


BASIS = jax.jit(sae.isometric_basis, static_argnums=1)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_isometric_basis_keeps_inner_products(x):
    scale = max(np.abs(x @ x.T).max(), 1e-3)
    basis = BASIS(x, min(x.shape))
    assert basis.shape == (len(x), min(x.shape))
    np.testing.assert_allclose(basis @ basis.T, x @ x.T, atol=2e-5 * scale)
    squares = np.sum(basis**2, axis=0)
    assert (np.diff(squares) <= 2e-5 * scale).all()  # largest first
    np.testing.assert_allclose(basis.T @ basis, np.diag(squares), atol=2e-5 * scale)


def test_a_basis_is_the_same_wherever_it_is_computed():
    """Eigenvectors have a sign of their own, of pairs of opposite rows as well."""
    half = np.random.default_rng(2).standard_normal((20, 3, 8)).astype(np.float32)
    rows = np.concatenate([half, -half], axis=1)
    values, vectors = np.linalg.eigh(rows @ rows.swapaxes(-1, -2))  # by another LAPACK
    other = (vectors * np.sqrt(np.maximum(values, 0))[:, None])[..., :-4:-1]
    other = other * np.sign(np.einsum("n,gnr->gr", 1 / np.arange(1, 7), other))[:, None]
    np.testing.assert_allclose(BASIS(rows, 3), other, atol=1e-4)


def test_a_narrow_basis_is_the_best_of_its_width(x):
    singular = np.linalg.svd(x, compute_uv=False)
    basis = sae.isometric_basis(np.asarray(x), 2)
    lost = np.linalg.norm(x @ x.T - basis @ basis.T)
    np.testing.assert_allclose(lost, np.linalg.norm(singular[2:] ** 2), rtol=1e-3)


def test_losses_of_parameters_in_the_span_are_equal_in_both_bases():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4, D)).astype(np.float32)  # rank 4 in R^11
    basis = sae.isometric_basis(x, 4)
    turn = np.linalg.lstsq(basis, x, rcond=None)[0]  # [R, D], orthonormal rows
    np.testing.assert_allclose(turn @ turn.T, np.eye(4), atol=1e-4)
    narrow = sae.init(np.random.default_rng(0), 4, RELU).replace(
        bias=jnp.asarray(rng.standard_normal(4), jnp.float32),
        encoder_bias=jnp.asarray(rng.standard_normal(F), jnp.float32),
    )
    wide = narrow.replace(
        encoder=turn.T @ narrow.encoder, decoder=narrow.decoder @ turn, bias=narrow.bias @ turn
    )
    for config in (RELU, TOPK):
        np.testing.assert_allclose(
            sae.loss(narrow, jnp.asarray(basis), SETTINGS, config, D),
            sae.loss(wide, jnp.asarray(x), SETTINGS, config, D),
            rtol=1e-4,
        )
        np.testing.assert_array_equal(
            sae.code(sae.encode(narrow, jnp.asarray(basis), config)),
            sae.code(sae.encode(wide, jnp.asarray(x), config)),
        )
