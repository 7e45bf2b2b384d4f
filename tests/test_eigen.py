"""Eigenvectors are numpy's, and no batch of matrices reaches a CPU's jaxlib."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(params=["circuits_jax", "foveation_jax"])
def eigh(request):
    return importlib.import_module(f"{request.param}.runs.eigen").eigh


def symmetric(*shape):
    roots = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jnp.asarray(roots @ np.swapaxes(roots, -1, -2))


@pytest.mark.parametrize("shape", [(5, 5), (4, 5, 5), (2, 3, 5, 5)])
def test_they_are_those_of_numpy(eigh, shape):
    matrices = symmetric(*shape)
    values, vectors = eigh(matrices)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrices), rtol=1e-4, atol=1e-5)
    values, vectors = map(np.asarray, (values, vectors))
    again = (vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    np.testing.assert_allclose(again, matrices, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_cpu_decomposes_one_matrix_at_a_time(eigh, levels):
    """Two batches at once, on two devices of two cores, wait for one another for ever."""
    one = eigh
    for _ in range(levels):
        one = jax.vmap(one)
    lowered = jax.jit(one).lower(symmetric(2, 3, 5, 5)).as_text()
    shapes = re.findall(r"custom_call @lapack_\w+\(.*?\) .*: \(tensor<([0-9x]+)xf32>\)", lowered)
    assert shapes == ["5x5"]
