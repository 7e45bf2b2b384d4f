"""Pooling windows: the published masks, and what holds for any size, fixation and scale."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

import foveation_jax as fj
from foveation_jax.windows import pooling
from foveation_jax.windows.pooling_windows import profile

MASKS = Path(__file__).parents[4] / "shared" / "data" / "windows"


def masks_of(windows):
    """As one program: operation by operation, each would be compiled for each size."""

    def masks(moved):
        return dataclasses.replace(moved, kept=windows.kept).masks()  # `kept` is read on the host

    return np.asarray(jax.jit(masks)(windows))


@pytest.mark.parametrize("scale", [0.4, 0.5])
def test_every_published_mask_is_met_in_order(scale):
    file = MASKS / f"meta_windows_s{scale}.npz"
    if not file.exists():
        pytest.skip(f"the published masks are not at {file}")
    published = np.load(file)["masks"]
    ours = masks_of(fj.pooling_windows(scale))
    assert ours.shape == published.shape
    for ours_one, published_one in zip(ours, published, strict=True):
        error = np.abs(ours_one - published_one / 255)
        error[[0, 0, -1, -1], [0, -1, 0, -1]] = 0
        assert error.max() < 0.007


@pytest.mark.parametrize(
    ("scale", "regions"), [(0.25, 377), (0.3, 301), (0.4, 187), (0.5, 126), (0.6, 103), (0.7, 91)]
)
def test_number_of_published_regions(scale, regions):
    assert 1 + int(fj.pooling_windows(scale).kept.sum()) == regions


def test_mixing_is_the_published_one():
    rings = np.asarray(fj.pooling_windows(0.4).mixing())
    np.testing.assert_allclose(rings[:5].mean(1), [0.221, 0.323, 0.461, 0.630, 0.800], atol=0.002)
    assert rings[5].max() == pytest.approx(0.860, abs=0.001)
    assert rings[6].max() == 0
    whole = np.asarray(fj.pooling_windows(0.4, published=False).mixing())
    np.testing.assert_allclose(whole[:5, 0], [0.221, 0.323, 0.461, 0.630, 0.800], atol=0.002)
    assert (whole == whole[:, :1]).all()
    assert (np.diff(whole[:, 0]) > 0).all()


def test_ring_edges_in_degrees():
    edges = fj.pooling_windows(0.4).ring_edges()
    np.testing.assert_allclose(edges[:7], [1.82, 2.71, 4.03, 6.00, 8.93, 13.29, 19.77], atol=0.006)


@settings(deadline=None, max_examples=30)
@given(st.floats(-3, 3))
def test_copies_of_the_profile_add_to_one(u):
    assert float(profile(u + jnp.arange(-5.0, 6.0)).sum()) == pytest.approx(1, abs=1e-5)


@settings(deadline=None, max_examples=5)
@given(
    size=st.sampled_from([(32, 32), (20, 45)]),
    scale=st.floats(0.2, 1.2),
    y=st.floats(-100, 150),
    x=st.floats(-100, 150),
    published=st.booleans(),
)
def test_windows_are_a_partition_of_unity(size, scale, y, x, published):
    masks = masks_of(fj.pooling_windows(scale, size, (y, x), published))
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    np.testing.assert_allclose(masks.sum(0), 1, atol=2e-5)


def test_windows_do_not_depend_on_the_resolution():
    fine, coarse = fj.pooling_windows(0.4, (512, 512)), fj.pooling_windows(0.4, (256, 256))
    at = jnp.arange(256) * 2 + 0.5
    same = jax.jit(lambda fine, coarse: (fine.factors(at, at), coarse.pixel_factors()))
    for a, b in zip(*same(fine, coarse), strict=True):
        np.testing.assert_allclose(a[:6], b[:6], atol=2e-4)


def test_windows_that_were_counted_within_one_mesh_serve_in_another():
    """As stage 1 beforehand, over images, and then on the fly, over runs."""

    def weigh(axis):
        def one(x):
            windows = fj.pooling_windows(0.4, (19, 23), published=False)
            return x * jnp.einsum("et,et->", windows.kept, windows.mixing())

        mesh, part = Mesh(np.array(jax.devices()[:1]), (axis,)), PartitionSpec(axis)
        return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=part, out_specs=part))(jnp.ones(1))

    np.testing.assert_array_equal(weigh("images"), weigh("runs"))


def test_moving_the_fixation_moves_the_windows():
    windows = fj.pooling_windows(0.5, (64, 64), (20.0, 30.0), published=False)
    moved = dataclasses.replace(windows, fixation=jnp.array([28.0, 26.0]))
    np.testing.assert_allclose(
        masks_of(moved)[:, 16:48, 4:40], masks_of(windows)[:, 8:40, 8:44], atol=1e-4
    )


@pytest.mark.parametrize("grid", [(64, 64), (32, 32), (26, 34)])
def test_pooling_and_spreading_keep_constants_and_agree_with_masks(grid):
    windows = fj.pooling_windows(0.5, (128, 128), (70.0, 40.0), published=False)

    @jax.jit
    def pooled(windows):
        cells = pooling.cells(windows, grid)
        means = pooling.pool(cells, jnp.full((1, *grid), 3.0))
        spread = pooling.spread(cells, jnp.full((*cells.mass.shape, 1), 2.0))
        rings, _ = windows.factors(*(jnp.arange(n) * 128 / n for n in grid))
        return cells.mass, means, spread, rings

    mass, means, spread, rings = map(np.asarray, pooled(windows))
    np.testing.assert_allclose(means[mass > 1e-3], 3, rtol=1e-5)
    np.testing.assert_allclose(spread[0], 2 * rings.sum(0), atol=0.15)
    corner = spread[0, -1, -1]
    np.testing.assert_allclose(corner, 2, rtol=1e-5)


@pytest.mark.parametrize("at_once", [False, True])
def test_pooled_products_are_pooled_maps_of_products(at_once):
    grid = pooling.cells(fj.pooling_windows(0.5, (96, 128), published=False), (96, 128), 2.5)
    assert grid.side > 1
    sizes = ((3, jax.random.key(0)), (1, jax.random.key(1)))
    a, b = (jax.random.normal(key, (2, n, 96, 128)) for n, key in sizes)
    found = jax.jit(pooling.pool_products, static_argnums=3)(grid, a, b, at_once)
    products = (a[:, :, None] * b[:, None]).reshape(-1, 96, 128)
    assert found.shape[2:] == (2, 3, 1)
    np.testing.assert_allclose(found.reshape(-1), pooling.pool(grid, products).ravel(), atol=1e-5)


def test_pooled_means_are_the_masks_means():
    windows = fj.pooling_windows(0.5, (128, 128), published=False)
    image = jax.random.uniform(jax.random.key(0), (128, 128)).cumsum(0) / 64
    masks = masks_of(windows)[1:].reshape(windows.n_wedges, windows.n_rings, 128, 128)
    exact = (masks * np.asarray(image)).sum((2, 3)) / np.maximum(masks.sum((2, 3)), 1)
    pool = jax.jit(lambda windows: pooling.pool(pooling.cells(windows, (128, 128)), image[None]))
    pooled = np.asarray(pool(windows))[..., 0].T
    large = masks.sum((2, 3)) > 30
    np.testing.assert_allclose(pooled[large], exact[large], atol=0.02)

    @jax.jit
    def at_once(windows):
        cells = [pooling.cells(windows, (128, 128), ring) for ring in (0.5, 2.5)]
        return [pooling.pool(c, image[None], at_once=True)[..., 0].T for c in cells], [
            jnp.zeros(c.side) for c in cells
        ]

    (same, wider), sides = at_once(windows)
    np.testing.assert_allclose(same, pooled, rtol=1e-5)
    assert [len(s) for s in sides] == [2, 4]  # wider cells do for rings further out
    large[:, :2] = False
    np.testing.assert_allclose(wider[large], exact[large], atol=0.02)


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 0.01},
        {"scale": 3.0},
        {"scale": float("nan")},
        {"scale": 0.4, "size": (1, 5)},
        {"scale": 0.4, "size": (5, 5, 3)},
        {"scale": 0.4, "fixation": (float("inf"), 0)},
        {"scale": 0.4, "fixation": (1.0,)},
    ],
)
def test_what_cannot_be_windows_is_refused(arguments):
    with pytest.raises(fj.InputError):
        fj.pooling_windows(**arguments)
