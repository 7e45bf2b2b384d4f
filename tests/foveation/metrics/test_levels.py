"""What values arrays may hold: uint8 understood everywhere, other scales and NaN refused."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.metrics import levels
from foveation_jax.probes.evaluate import answers, evaluate
from foveation_jax.report.experiment_figures import mosaic
from foveation_jax.transforms.noise import check_key
from foveation_jax.windows.pooling import cells, pool, spread

KEY = jax.random.key(0)
SIDE = 64  # from which on the minimum of a CPU array loses a NaN
A, B = np.random.RandomState(0).randint(0, 256, (2, 1, SIDE, SIDE, 3)).astype(np.uint8)
WINDOWS = fj.pooling_windows(0.4, (SIDE, SIDE))
GREY = np.full(3, 0.5, np.float32)
# Every public function of one picture and of two.
OF_ONE = {
    "raw": lambda x: fj.transform("raw", x, KEY),
    "reference": lambda x: fj.transform("reference", x, KEY),
    "occlude": lambda x: fj.probes.occlude(x, "scotoma", 4),
    "low_pass": lambda x: fj.probes.low_pass(x, 2.0),
    "high_pass": lambda x: fj.probes.high_pass(x, 2.0, GREY),
    "grey": fj.probes.grey,
}
OF_TWO = {
    **{n: m for n, m in fj.metrics.METRICS.items() if n != "ms_ssim"},
    "ssim_map": fj.metrics.ssim_map,
    "window_conflict": lambda a, b: fj.probes.window_conflict(a, b, 2, WINDOWS),
    "square_conflict": lambda a, b: fj.probes.square_conflict(a, b, 8),
    "match": lambda a, b: fj.match(a, b, KEY, metric="mse", tolerance=1.0),
}


@pytest.mark.parametrize("name", [*OF_ONE, *OF_TWO])
def test_8_bit_levels_mean_what_their_colours_mean(name):
    a, b = A / np.float32(255), B / np.float32(255)
    if name in OF_ONE:
        expected, got = OF_ONE[name](a), [OF_ONE[name](A), OF_ONE[name](jnp.asarray(A))]
    else:
        expected = OF_TWO[name](a, b)
        got = [OF_TWO[name](A, B), OF_TWO[name](jnp.asarray(A), b), OF_TWO[name](a, B)]
    if name == "match":
        assert all(match == expected for match in got)
        return
    for value in got:
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (A.astype(np.float32), "span 0 to 255: .* within 0 and 1: divide 8-bit levels by 255"),
        (A / 127.5, "span 0 to 2: they must lie"),
        (A / 255 - 0.5, "span -0.5 to 0.5"),
        (A.astype(np.int32), "are int32: they must be floating point in .0, 1., or uint8"),
        (A.astype(np.uint16) * 257, "are uint16"),
        (A > 100, "are bool"),
        (A.astype(np.complex64), "are complex64"),
    ],
)
@pytest.mark.parametrize("name", [*OF_ONE, *OF_TWO])
def test_other_scales_are_refused(name, wrong, words):
    if name in OF_ONE:
        with pytest.raises(fj.InputError, match=words):
            OF_ONE[name](wrong)
        return
    for pair in ((wrong, B), (B, wrong)):
        with pytest.raises(fj.InputError, match=words):
            OF_TWO[name](*pair)


def test_a_value_that_is_not_finite_anywhere_is_named_and_refused():
    places = np.random.RandomState(1)
    for number in range(50):
        place = (0, *places.randint(0, SIDE, 2), places.randint(0, 3))
        image = A / np.float32(255)
        image[place] = value = (np.nan, np.inf, -np.inf)[number % 3]
        named = rf"hold {value} at \[{', '.join(map(str, place))}\], which is not finite"
        for images in (image, jnp.asarray(image)):
            with pytest.raises(fj.InputError, match=named):
                fj.transform("foveation_texture", images, KEY)
        others = [*OF_ONE.values()]
        others += [functools.partial(f, B) for f in OF_TWO.values()]
        others += [lambda x, f=f: f(x, B) for f in OF_TWO.values()]
        with pytest.raises(fj.InputError, match=named):
            others[number % len(others)](image)


def test_planes_coefficients_and_tables_that_are_not_finite_are_refused():
    planes = jnp.ones((3, SIDE, SIDE))
    pyramid, grid = fj.decompose(planes, 2), cells(WINDOWS, (SIDE, SIDE))
    table = pool(grid, planes)
    for leaf in range(4):
        leaves, tree = jax.tree.flatten(pyramid)
        leaves[leaf] = leaves[leaf].at[(0,) * leaves[leaf].ndim].set(jnp.nan)
        with pytest.raises(fj.InputError, match=r"pyramid's .* hold .*nan"):
            fj.reconstruct(jax.tree.unflatten(tree, leaves))
    with pytest.raises(fj.InputError, match=r"planes hold inf at \[2, 5, 6\]"):
        fj.decompose(planes.at[2, 5, 6].set(jnp.inf), 2)
    with pytest.raises(fj.InputError, match=r"maps hold nan at \[1, 2, 3\]"):
        pool(grid, planes.at[1, 2, 3].set(jnp.nan))
    with pytest.raises(fj.InputError, match=r"table hold nan at \[0, 1, 2\]"):
        spread(grid, table.at[0, 1, 2].set(jnp.nan))
    with pytest.raises(fj.InputError, match=r"filters hold nan"):
        mosaic(np.full((3, 3, 3, 2), np.nan))


def test_answers_of_a_network_that_diverged_are_not_ranked():
    def predict(images):
        logits = jnp.zeros((2, len(images), 2)).at[:, :, 1].set(1.0)
        return logits.at[1, 0, 1].set(jnp.nan)

    images, labels = np.repeat(A, 2, 0), np.arange(2)
    with pytest.raises(fj.InputError, match="run 1 answers with logits that are not finite"):
        answers(predict, lambda rows: iter([jnp.asarray(images[rows])]), 2, 2)
    with pytest.raises(fj.InputError, match="mean's colours hold nan at"):
        evaluate(predict, "raw", images, labels, mean=np.array([0.5, np.nan, 0.5]))
    with pytest.raises(fj.InputError, match="raw: images are float32"):
        inspect.unwrap(evaluate)(predict, "raw", images / np.float32(255), labels)


@pytest.mark.parametrize("mean", [np.array([0.1, np.nan, 0.2]), np.full(3, 128.0), np.zeros(2)])
def test_a_mean_that_is_no_colour_is_refused(mean):
    with pytest.raises(fj.InputError, match="mean"):
        fj.probes.high_pass(A, 2.0, mean)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_other_floats_are_worked_on_in_float32(dtype):
    images = jnp.asarray(A / 255, dtype) if dtype != np.float64 else A / 255
    expected = fj.transform("uniform_blur", jnp.asarray(images, jnp.float32), KEY, sigma=2.0)
    seen = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    assert seen.dtype == jnp.float32
    np.testing.assert_array_equal(seen, expected)
    assert float(fj.metrics.psnr(images, A)[0]) > 40


@pytest.mark.parametrize("key", [0, 1.5, None, "0", np.zeros(2), jax.random.split(KEY)])
def test_what_is_no_key_is_refused_in_a_sentence(key):
    with pytest.raises(fj.InputError, match=r"key is .* such as jax.random.key\(0\)"):
        fj.transform("foveation_texture", A, key)
    with pytest.raises(fj.InputError, match=r"key is "):
        fj.match(A, B, key)
    check_key(jax.random.PRNGKey(0))


@pytest.mark.parametrize("fixation", [((1, 2), (3, 4)), np.zeros((3, 2)), (1, 2, 3), (1, np.nan)])
@pytest.mark.parametrize(
    "name", ["foveation_texture", "cortical_magnification", "contrast_sensitivity_blur"]
)
def test_a_fixation_that_is_not_one_place_is_refused(name, fixation):
    message = r"fixation (is .* two finite numbers \(y, x\)|has shape .* or \(1, 2\), one for each)"
    with pytest.raises(fj.InputError, match=message):
        fj.transform(name, A, KEY, fixation=fixation)
    traced = jax.eval_shape  # of a traced fixation only the shape is known
    with pytest.raises(fj.InputError, match=r"fixation has shape \(2, 2\)"):
        traced(lambda f: fj.transform(name, A, KEY, fixation=f), jnp.zeros((2, 2)))


@pytest.mark.parametrize("name", ["half_eccentricity", "decay", "threshold"])
def test_constants_that_are_not_finite_are_refused(name):
    for value in (np.inf, np.nan):
        with pytest.raises(fj.InputError, match=name):
            fj.transform("contrast_sensitivity_blur", A, KEY, **{name: value})
    with pytest.raises(fj.InputError, match="half_eccentricity"):
        fj.transform("cortical_magnification", A, KEY, half_eccentricity=np.inf)


def test_traced_images_are_checked_for_what_is_known():
    for wrong in (A.astype(np.int32), A[..., :2] / 255):
        with pytest.raises(fj.InputError):
            jax.eval_shape(lambda x: fj.transform("raw", x, KEY), wrong)
    shape = jax.eval_shape(lambda x: levels.colours("images", x), A)
    assert shape.dtype == jnp.float32
