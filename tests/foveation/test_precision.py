"""Products on other devices, without one: what is lowered for them, and operands rounded as there.

XLA multiplies float32 with 10 bits of mantissa on a GPU and with 7 on a TPU unless a product asks
for HIGHEST precision.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from jax.extend import core

import foveation_jax as fj
from foveation_jax.transforms import noise, pyramid
from foveation_jax.transforms.foveated_blur import foveated_blur_batch
from foveation_jax.transforms.texture import pyramid_texture
from foveation_jax.transforms.vgg_texture import cell_regions, vgg_texture
from foveation_jax.transforms.window_matching import match_windows
from foveation_jax.transforms.zones import blur_moments, target_moments
from foveation_jax.vgg.encoder_decoder import reconstruct
from foveation_jax.windows.pooling import cells, pool, spread

KEY = jax.random.key(0)
IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
LARGE = jax.ShapeDtypeStruct((1, 176, 176, 3), jnp.float32)
WINDOWS = fj.pooling_windows(0.4, (64, 64), published=False)
WIDTHS = (3, 4, 4, 4, 4)


def _network(decodes: bool) -> dict:
    """A VGG of one convolution a block, a few channels wide."""
    layers = {} if decodes else {"color": _layer(1, 3, 3)}
    for block, (before, after) in enumerate(itertools.pairwise(WIDTHS), 1):
        layers[f"conv{block}_1"] = _layer(3, *((after, before) if decodes else (before, after)))
    return layers


def _layer(side, inputs, outputs) -> dict:
    kernel = jax.random.normal(KEY, (side, side, inputs, outputs)) / (side * inputs**0.5)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def _texture(images):
    return fj.transform("foveation_texture", images, KEY)


def _vgg(images):
    encoder, decoder = _network(False), _network(True)
    seen = reconstruct(encoder, decoder, images)
    return vgg_texture(images, seen, cell_regions(WINDOWS), encoder, decoder)


def _metrics(images):
    return [metric(images, images[:, ::-1]) for metric in fj.metrics.METRICS.values()]


def _pooled(images):
    grid = cells(WINDOWS, (64, 64))
    return spread(grid, pool(grid, jnp.moveaxis(images[0], -1, 0)))


def _noise(images):
    white = noise.white_noise(KEY, images.shape[1:])
    return noise.coral(white, images[0]), noise.regional_coral(white, images[0], WINDOWS)


def _blurs(images):
    uniform = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    graded = fj.transform("contrast_sensitivity_blur", images, KEY)
    return uniform, graded, foveated_blur_batch(images, jnp.ones(WINDOWS.n_rings), WINDOWS)


def _match(images):
    places, sigmas = jnp.full((len(images), 2), 31.5), jnp.ones(WINDOWS.n_rings)
    target = target_moments(images, images[:, ::-1], places, WINDOWS, "foveation_blur", "ssim")
    return target, blur_moments(images, images, places, sigmas, WINDOWS, "foveation_blur", "ssim")


def _probes(images):
    filtered = [fj.probes.low_pass(images, 2.0), fj.probes.high_pass(images, 2.0, np.full(3, 0.5))]
    return fj.probes.window_conflict(*filtered, 2)


def _slope(function):
    """The gradient by the images: its program holds all products, and their transposes."""
    return jax.grad(lambda images: sum(x.sum() for x in jax.tree.leaves(function(images))))


PROGRAMS = {
    "texture": (_slope(_texture), IMAGES),
    "vgg": (_slope(_vgg), IMAGES),
    "noise": (_slope(_noise), IMAGES),
    "pooling": (_slope(_pooled), IMAGES),
    "blurs": (_slope(_blurs), IMAGES),
    "metrics": (_metrics, LARGE),
    "match": (_match, IMAGES),
    "probes": (_probes, IMAGES),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_product_that_a_gpu_gets_is_float32(name):
    program, shape = PROGRAMS[name]
    lowered = jax.jit(program).trace(shape).lower(lowering_platforms=("cuda",)).as_text()
    kinds = ("stablehlo.dot", "stablehlo.convolution")
    products = [line for line in lowered.splitlines() if any(kind in line for kind in kinds)]
    assert products
    assert not [p for p in products if p.count("HIGHEST") != 2]


def rounded(function):
    """(bits, *args) -> `function` of args, operands of its products rounded to bits of mantissa."""

    def round_off(x, lost):
        if x.dtype != jnp.float32:
            return x
        whole = jax.lax.bitcast_convert_type(x, jnp.uint32) + (jnp.uint32(1) << (lost - 1))
        return jax.lax.bitcast_convert_type((whole >> lost) << lost, jnp.float32)

    def run(lost, jaxpr, consts, *args):
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def value(x):
            return x.val if isinstance(x, core.Literal) else known[x]

        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            values = [value(x) for x in equation.invars]
            if name == "scan":
                results = scan(lost, params, values)
            elif name == "cond":  # a choice by platform
                index, *operands = values
                ways = [functools.partial(run, lost, b.jaxpr, b.consts) for b in params["branches"]]
                results = jax.lax.switch(index, ways, *operands)
            elif inner := params.get("jaxpr") or params.get("call_jaxpr"):
                results = run(lost, inner.jaxpr, inner.consts, *values)
            else:
                if name in ("dot_general", "conv_general_dilated"):
                    values = [round_off(x, lost) for x in values]
                results = equation.primitive.bind(*values, **equation.params)
                results = results if equation.primitive.multiple_results else [results]
            known |= zip(equation.outvars, results, strict=True)
        return [value(x) for x in jaxpr.outvars]

    def scan(lost, params, values):
        body, n_consts, n_carry = params["jaxpr"], params["num_consts"], params["num_carry"]
        consts, init = values[:n_consts], values[n_consts : n_consts + n_carry]

        def step(carry, x):
            results = run(lost, body.jaxpr, body.consts, *consts, *carry, *x)
            return results[:n_carry], results[n_carry:]

        carry, stacked = jax.lax.scan(
            step, init, values[n_consts + n_carry :], params["length"], params["reverse"]
        )
        return [*carry, *stacked]

    def call(bits, *args):
        traced = jax.make_jaxpr(function)(*args)
        return run(jnp.uint32(23) - bits, traced.jaxpr, traced.consts, *args)[0]

    return jax.jit(call)


@pytest.fixture(scope="module")
def pictures():
    """A photograph, the same in grey, a flat and a black picture [4, 64, 64, 3]."""
    photograph = skimage.data.astronaut()[::8, ::8] / np.float32(255)
    grey = np.repeat(photograph.mean(-1, keepdims=True), 3, -1)
    return jnp.asarray(np.stack([photograph, grey, np.full_like(grey, 0.7), 0 * grey]))


def _texture_of(images):
    return pyramid_texture(images, KEY, WINDOWS, pyramid.default_scales((64, 64)))


def _matched_to(images):
    matched = jax.vmap(lambda image: match_windows(image[::-1], image, WINDOWS, 2))
    return matched(images)


@pytest.mark.parametrize("texture", [_texture_of, _matched_to])
def test_textures_stay_finite_and_near_when_operands_are_rounded(pictures, texture):
    exact, roughly = jax.jit(texture)(pictures), rounded(texture)
    for bits, most in ((10, 0.01), (7, 0.03)):
        seen = roughly(jnp.uint32(bits), pictures)
        assert np.isfinite(seen).all()
        assert 1e-6 < float(jnp.abs(seen - exact).mean()) < most


def test_noise_stays_finite_when_operands_are_rounded(pictures):
    def noises(images):
        white = noise.white_noise(KEY, images.shape[1:])
        regional = [noise.regional_coral(white, image, WINDOWS) for image in images[:2]]
        return jnp.stack([*regional, *(noise.coral(white, image) for image in images)])

    roughly = rounded(noises)
    for bits in (10, 7):
        assert np.isfinite(roughly(jnp.uint32(bits), pictures)).all()


def test_inverse_of_a_root_is_its_inverse():
    root = np.tril(np.random.default_rng(0).normal(size=(4, 2, 3, 3)), -1) + 2 * np.eye(3)
    found = noise.inverse_root(jnp.asarray(root, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.inv(root), atol=1e-5)


def test_cholesky_is_that_of_positive_matrices_and_bounded_for_all_others():
    parts = jax.random.normal(KEY, (50, 3, 5))
    positive = jnp.einsum("ncp,ndp->ncd", parts, parts, precision="highest")
    expected = np.linalg.cholesky(np.asarray(positive) + 1e-3 * np.eye(3))
    np.testing.assert_allclose(noise.cholesky(positive, 1e-3), expected, atol=2e-5)
    error = 1e-2 * jax.random.normal(jax.random.key(1), positive.shape)
    for rank in (1, 2):  # singular, then indefinite
        singular = jnp.einsum(
            "ncp,ndp->ncd", parts[..., :rank], parts[..., :rank], precision="highest"
        )
        broken = singular + error + error.swapaxes(1, 2)
        assert (np.linalg.eigvalsh(broken) < 0).any()
        root = jax.jit(noise.cholesky, static_argnums=1)(broken, 1e-7)
        assert np.isfinite(root).all()
        variances = np.maximum(np.diagonal(broken, axis1=1, axis2=2), 0)
        np.testing.assert_allclose((root**2).sum(-1), variances, rtol=1e-4, atol=1e-6)
    gradient = jax.grad(lambda x: noise.cholesky(x, 1e-7).sum())(jnp.ones((2, 3, 3)))
    assert np.isfinite(gradient).all()


def test_coral_has_the_right_slope_in_grey_where_eigenvalues_are_equal():
    with jax.enable_x64(True):
        white = jax.random.normal(KEY, (16, 16, 3), jnp.float64)
        grey = jnp.broadcast_to(jnp.abs(white[:, :, :1]) / 4, white.shape)
        weights, towards = jax.random.normal(jax.random.key(2), (2, 16, 16, 3), jnp.float64)

        @jax.jit
        def along(step):
            return (noise.coral(white, grey + step * towards) * weights).sum()

        measured = float(along(1e-5) - along(-1e-5)) / 2e-5
        assert float(jax.jit(jax.grad(along))(0.0)) == pytest.approx(measured, rel=1e-4)
