"""Training all autoencoders at once equals training each alone, on one device and on two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.codes import fit, sae

G, N, R, D = 5, 4, 3, 9  # five heads: no multiple of two devices, nor of those trained at once
CONFIG = sae.SaeConfig(n_codes=6, steps=30)
L1, RATES = (0.0, 0.02, 0.5), (1e-2, 1e-2, 1e-3)
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((G, N, R)), jnp.float32)


def starts(*axes):
    """Where each seed's and head's autoencoder starts."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(KEY)))
    params = sae.init(rng, R, CONFIG, axes)
    return lambda *index: jax.tree.map(lambda v: v[index], params)


def fit_all(x):
    """Five heads, two seeds, three settings."""
    settings = sae.Settings(l1=jnp.array(L1), learning_rate=jnp.array(RATES))
    return fit.fit(KEY, x, CONFIG, settings, d_model=D, n_seeds=2)


@pytest.fixture(scope="module")
def fitted(x):
    assert len(jax.devices()) == 2
    return fit_all(x)


def test_heads_seeds_and_settings_equal_training_alone(x, fitted):
    params, losses = fitted
    assert losses.shape == (2, 3, G, 30)
    assert params.encoder.shape == (2, 3, G, R, 6)
    start = starts(2, G)
    train = jax.jit(sae.train, static_argnums=(3, 4))
    for index in [(0, 0, 0), (1, 2, 4), (0, 1, 3), (1, 0, 2)]:
        seed, setting, head = index
        alone = sae.Settings(l1=L1[setting], learning_rate=RATES[setting])
        wanted, course = train(start(seed, head), x[head], alone, CONFIG, D)
        np.testing.assert_allclose(losses[index], course, rtol=1e-4)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a[index], b, atol=1e-4)


def test_seeds_differ_and_settings_start_alike(fitted):
    start, end = (np.asarray(fitted[1][..., step]) for step in (0, -1))
    # From one start, the loss is a line in the penalty.
    slopes = (start - start[:, :1])[:, 1:] / np.array(L1[1:])[None, :, None]
    np.testing.assert_allclose(slopes[:, 0], slopes[:, 1], rtol=1e-3)
    assert not np.isclose(start[0], start[1]).any()
    assert not np.isclose(end[:, 0], end[:, 1]).any()


def test_heads_do_not_touch_one_another(x, fitted):
    changed = fit_all(x.at[2].add(1.0))[1]
    same = np.all(np.isclose(fitted[1], changed, rtol=1e-6), axis=(0, 1, 3))
    assert same.tolist() == [True, True, False, True, True]


def test_activations_are_each_heads_own(x, fitted):
    h = fit.activations(fitted[0], x, CONFIG)
    assert h.shape == (2, 3, G, N, 6)
    one = jax.tree.map(lambda v: v[1, 2, 3], fitted[0])
    np.testing.assert_allclose(h[1, 2, 3], sae.encode(one, x[3], CONFIG), atol=1e-6)


def test_a_shared_autoencoder_is_one_item_of_all_rows(x):
    """Also the defaults: one seed, the published numbers, D = R."""
    rows = x.reshape(1, G * N, R)
    params, losses = fit.fit(KEY, rows, CONFIG)
    assert losses.shape == (1, 1, 1, 30)
    wanted, course = sae.train(starts(1, 1)(0, 0), rows[0], sae.Settings(0.02, 1e-3), CONFIG, R)
    np.testing.assert_allclose(losses[0, 0, 0], course, rtol=1e-4)
    np.testing.assert_allclose(params.encoder[0, 0, 0], wanted.encoder, atol=1e-4)


def test_one_device_gives_what_two_give(x, fitted, monkeypatch):
    one = jax.devices()[:1]
    fit._fit.clear_cache()
    with monkeypatch.context() as patched:
        patched.setattr(fit.jax, "devices", lambda: one)
        params, losses = fit_all(x)
    fit._fit.clear_cache()
    assert len(jax.devices()) == 2
    for a, b in zip(jax.tree.leaves((params, losses)), jax.tree.leaves(fitted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
