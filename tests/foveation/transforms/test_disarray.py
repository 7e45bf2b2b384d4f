"""Foveation-Texture by disarray, matching by window, and refinement on pooled statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.transforms import disarray, pyramid
from foveation_jax.transforms.disarray import disarray_texture
from foveation_jax.transforms.refinement import refine
from foveation_jax.transforms.texture_statistics import _compare, skew_and_kurtosis
from foveation_jax.transforms.window_matching import match_windows
from foveation_jax.windows.pooling import cells


def eccentricity(n, field_of_view=26.0):
    at = (np.arange(n) - (n - 1) / 2) * field_of_view / n
    return np.hypot(at[:, None], at[None])


@pytest.fixture(scope="module")
def windows():
    return fj.pooling_windows(0.4, (128, 128), published=False)


@pytest.fixture(scope="module")
def textures(photographs):
    """Of two seeds, by the default route."""
    keys = [jax.random.key(seed) for seed in range(2)]
    return [fj.transform("foveation_texture", photographs, key) for key in keys]


def test_the_centre_is_the_image_and_seeds_move_the_rest(photographs, textures):
    ecc = eccentricity(128)
    for texture in textures:
        assert float(texture.min()) >= 0
        assert float(texture.max()) <= 1
        np.testing.assert_array_equal(texture[:, ecc < 1.5], photographs[:, ecc < 1.5])
        assert float(jnp.abs(texture - photographs)[:, ecc > 6].mean()) > 0.03
    assert float(jnp.abs(textures[0] - textures[1])[:, ecc > 6].mean()) > 0.03


def test_it_is_a_texture_by_the_table(photographs, textures):
    """Places are lost, edges and statistics stay: better than noise can be at this size."""
    for texture in textures:
        found = fj.texture_statistics(photographs, texture)
        rings = slice(2, 6)  # 4 to 20 degrees
        difference = found.coherence[1, rings] - found.coherence[0, rings]
        assert abs(float(difference.mean())) < 0.06
        assert float(jnp.abs(found.correlation[rings, 0]).mean()) < 0.3
        np.testing.assert_allclose(found.energy[rings].mean(0), 1, atol=0.2)
        np.testing.assert_allclose(found.variance[rings].mean(), 1, atol=0.1)
        assert float(found.colours[rings].mean()) > 0.9
        for family, most in (("mean", 0.1), ("variance", 0.5), ("energy", 0.45), ("phase", 0.9)):
            assert float(jnp.sqrt((found.errors[family][rings] ** 2).mean())) < most


def test_fields_have_the_reach_and_swell_nothing(windows):
    keys = jax.random.split(jax.random.key(0), 16)
    fields = jax.jit(jax.vmap(lambda key: disarray.displacements(key, windows)))(keys)
    ecc = eccentricity(128)
    ring = (ecc > 7) & (ecc < 9)
    width = 0.4 * ecc[ring].mean() * 128 / 26
    finest = np.asarray(fields[:, 0])[..., ring]
    assert np.sqrt((finest**2).mean()) == pytest.approx(disarray.REACH * width, rel=0.15)
    assert np.abs(np.asarray(fields)[..., ecc < 1.5]).max() == 0
    # Coarser octaves follow only the coarser fields: they move no further than finer ones.
    reaches = np.sqrt((np.asarray(fields)[..., ring] ** 2).mean((0, 2, 3)))
    assert (np.diff(reaches) <= 1e-3 * reaches[0]).all()
    free = np.asarray(disarray.unit_fields(keys[0], (128, 128)))
    np.testing.assert_allclose((free**2).mean((-2, -1)).mean(1)[:3], 1, rtol=0.25)
    for field in free:
        down = np.roll(field[0], -1, 0) - np.roll(field[0], 1, 0)
        right = np.roll(field[1], -1, 1) - np.roll(field[1], 1, 1)
        across = np.roll(field[0], -1, 1) - np.roll(field[0], 1, 1)
        assert np.abs(down + right).mean() < 0.05 * np.abs(across).mean()


def test_what_is_alone_in_a_window_stays_near_its_place(windows):
    """A lamp on a wall: moved as far as other things it would be in other windows."""
    across = np.arange(128) - 25
    lamp = 0.3 + 0.6 * np.exp(-(across[:, None] ** 2 + across[None] ** 2) / 3)
    ripple = 0.01 * np.sin(np.arange(128))[None]
    image = jnp.broadcast_to(jnp.asarray(lamp + ripple, jnp.float32)[..., None], (128, 128, 3))
    grid = cells(windows, (128, 128))
    freedom = jax.jit(disarray.freedom)
    free = freedom(image, grid)
    assert float(free[25, 25]) < 0.5 < 0.95 < float(free[100, 100])
    np.testing.assert_array_equal(free[eccentricity(128) < 1.5], 1)
    other = freedom(0.9 - 0.8 * image, grid)
    np.testing.assert_allclose(other, free, atol=0.05)  # dark or bright, at any contrast

    @jax.jit
    def kurtosis(seed, factor):
        fields = disarray.displacements(jax.random.key(seed), windows, 0.3)
        moved = disarray.disarray(image, fields * factor[None, None])
        return jnp.log(skew_and_kurtosis(moved[..., 0], grid)[1])

    of_it = np.asarray(grid.mass)[..., None] > 20
    still, everywhere = jnp.zeros((128, 128)), jnp.ones((128, 128))
    changes = [
        [np.abs(kurtosis(seed, f) - kurtosis(seed, still))[of_it].max() for f in (everywhere, free)]
        for seed in range(4)
    ]
    without, by_freedom = np.mean(changes, 0)
    assert by_freedom < 0.7 * without


def test_what_is_alone_is_held_at_the_margin_of_its_window_too(windows, monkeypatch):
    kurtosis = jnp.full(windows.kept.shape, 4.0).at[3, 5].set(100.0)[..., None]
    monkeypatch.setattr(disarray, "skew_and_kurtosis", lambda plane, grid: (None, kurtosis))
    free = disarray.freedom(jnp.zeros((128, 128, 3)), cells(windows, (128, 128)))
    rings, wedges = windows.pixel_factors()
    share = rings[3] * wedges[5]
    assert float(free[share > 0.03].max()) < 0.1
    assert float(free[share == 0].min()) > 0.9


def test_what_is_not_free_does_not_move(monkeypatch):
    image = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    windows = fj.pooling_windows(0.6, (32, 32), published=False)
    monkeypatch.setattr(disarray, "freedom", lambda image, grid: jnp.zeros(image.shape[:2]))
    held = jax.jit(disarray_texture.__wrapped__, static_argnames="n_scales")
    np.testing.assert_allclose(held(image, jax.random.key(1), windows, 1), image, atol=1e-3)


def test_a_constant_field_moves_the_image(photographs):
    part = photographs[0, :61, :90]
    still = jnp.zeros((4, 2, 61, 90))
    move = jax.jit(disarray.disarray)
    np.testing.assert_allclose(move(part, still), part, atol=2e-5)
    moved = move(part, still.at[:, 0].set(8).at[:, 1].set(-16))
    inner = (slice(16, 36), slice(40, 72))
    expected = jnp.roll(part, (-8, 16), (0, 1))
    np.testing.assert_allclose(moved[inner], expected[inner], atol=4e-3)
    # The last pixels are read from where the field points, not from a mirror image.
    moved = move(part, still.at[:, 0].set(-8))
    assert float(jnp.abs(moved[-4:] - part[-12:-8]).mean()) < 0.03


def test_splines_meet_their_samples_and_polynomials():
    samples = jax.random.normal(jax.random.key(0), (9, 12, 2))
    prefilter = [disarray._prefilter(n).astype(np.float32) for n in samples.shape[:2]]
    coefficients = disarray._both(*prefilter, samples)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(9.0), jnp.arange(12.0), indexing="ij"))
    np.testing.assert_allclose(disarray.read_spline(coefficients, grid), samples, atol=1e-5)
    beyond = disarray.read_spline(coefficients, -grid)  # mirrored about the first samples
    np.testing.assert_allclose(beyond, samples, atol=1e-5)


def test_matching_gives_windows_what_they_lack(photographs, windows):
    noise = 0.02 * jax.random.normal(jax.random.key(0), photographs.shape)
    pale = 0.3 + 0.5 * photographs[..., ::-1] + noise
    matched = jax.jit(jax.vmap(lambda p, i: match_windows(p, i, windows, 2)))
    whole = fj.pooling_windows(0.4, photographs.shape[1:3], published=False)
    octaves = pyramid.default_scales(photographs.shape[1:3])
    found, before = (  # what is matched is cut to [0, 1] only at the end of the route
        _compare(photographs, seen, whole, octaves) for seen in (matched(pale, photographs), pale)
    )
    for family in ("mean", "variance", "colours", "energy"):
        left, had = (float(t.errors[family][2:6].mean()) for t in (found, before))
        assert left < 0.35 * had
    np.testing.assert_allclose(matched(photographs, photographs), photographs, atol=1e-4)


def test_flat_and_grey_images_stay_so(photographs):
    grey = jnp.broadcast_to(photographs.mean(-1, keepdims=True), photographs.shape)
    grey = grey.at[1].set(0.3)
    seen = fj.transform("foveation_texture", grey, jax.random.key(0), route="disarray")
    assert float((seen.max(-1) - seen.min(-1)).max()) < 1e-4
    np.testing.assert_allclose(seen[1], 0.3, atol=2e-3)


def test_scrambled_windows_take_other_energies(photographs, textures):
    """A control: textures of windows elsewhere on the ring; means and centre stay."""
    scrambled = fj.transform("scrambled_texture", photographs, jax.random.key(0), route="disarray")
    centre = eccentricity(128) < 1.5
    np.testing.assert_array_equal(scrambled[:, centre], photographs[:, centre])
    left, had = (fj.texture_statistics(photographs, t).errors for t in (scrambled, textures[0]))
    assert float(left["energy"][2:6].mean()) > 1.5 * float(had["energy"][2:6].mean())
    assert float(left["mean"][2:6].mean()) < 0.15


def test_no_periphery_gives_the_images_back(photographs, windows):
    clear = dataclasses.replace(windows, kept=jnp.zeros_like(windows.kept))
    image = disarray_texture(photographs, jax.random.key(0), clear, 3, disarray.REACH)
    np.testing.assert_array_equal(image, photographs)


def test_an_image_is_the_same_in_any_batch(photographs, textures):
    other = photographs[::-1]
    seen = fj.transform("foveation_texture", other, jax.random.key(0), route="disarray")
    np.testing.assert_allclose(seen[::-1], textures[0], atol=1e-5)


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        image = jax.random.uniform(jax.random.key(0), (1, 32, 48, 3), jnp.float64) * 0.4 + 0.3
        weight = jax.random.normal(jax.random.key(1), image.shape, jnp.float64)
        windows = fj.pooling_windows(0.6, (32, 48), (14.2, 20.3), published=False)

        def loss(image, fixation, scale):
            moved = dataclasses.replace(windows, fixation=fixation, scale=scale)
            return (disarray_texture(image, jax.random.key(2), moved, 1) * weight).sum()

        both = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        at = (image, jnp.array([14.2, 20.3]), jnp.array(0.6))
        for i, gradient in enumerate(both(*at)[1]):
            assert np.isfinite(gradient).all()
            direction = jax.random.normal(jax.random.key(3), at[i].shape, jnp.float64)
            ends = [
                both(*at[:i], at[i] + sign * 1e-6 * direction, *at[i + 1 :])[0] for sign in (1, -1)
            ]
            measured = float(ends[0] - ends[1]) / 2e-6
            assert float((gradient * direction).sum()) == pytest.approx(measured, rel=2e-3)


def test_refinement_comes_nearer_and_leaves_the_centre(photographs, windows, textures):
    refined = refine(textures[0], photographs, windows, 2, 8)
    errors = [fj.texture_statistics(photographs, t).errors for t in (textures[0], refined)]
    for family in ("kurtosis", "orientations", "scales", "phase", "sparseness"):
        had, left = (float((e[family][2:6] ** 2).mean()) for e in errors)
        assert left < 0.85 * had
    # What is left of places is the start's: correlations rise by .033 if nothing holds them back.
    had, left = (fj.texture_statistics(photographs, t).correlation for t in (textures[0], refined))
    assert float((left - had)[2:6, :2].max()) < 0.0255
    centre = eccentricity(128) < 1.5
    np.testing.assert_array_equal(refined[:, centre], photographs[:, centre])
    assert float(refined.min()) >= 0
    assert float(refined.max()) <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reach": 3.0}, "reach, .* is 3.0; allowed is 0 to 1"),
        ({"n_scales": 2}, "n_scales"),
        ({"refinement": -1}, "refinement is -1"),
        ({"blend": "overwrite"}, "blend, with route='disarray', is 'overwrite'"),
        ({"route": "pyramid", "weights": "x.npz"}, "weights, with route='pyramid', is 'x.npz'"),
        ({"route": "vgg", "refinement": 3}, "refinement is 3"),
        ({"route": "eidolon"}, "allowed are disarray, pyramid, vgg"),
    ],
)
def test_options_of_other_routes_are_refused(options, words):
    with pytest.raises(fj.InputError, match=words):
        fj.transform(
            "foveation_texture",
            jnp.zeros((1, 32, 32, 3)),
            jax.random.key(0),
            **{"route": "disarray"} | options,
        )
