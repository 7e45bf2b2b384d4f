"""The hot programs of foveation_jax: (name, function, shapes), by images, runs and networks.

Tests lower them small for other platforms, `lower.py` compiles them at the paper's sizes.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from foveation_jax import metrics, pooling_windows, probes, texture_statistics, transform
from foveation_jax.jobs import pictures
from foveation_jax.networks import make_network
from foveation_jax.runs.mesh import IMAGES
from foveation_jax.stage1.perceived import perceive_batch, perceived_each
from foveation_jax.training.optimiser import Recipe
from foveation_jax.training.prediction import run_logits
from foveation_jax.training.step import Setup, make_step, state_shapes
from foveation_jax.transforms.foveated_blur import foveated_blur_batch
from foveation_jax.transforms.vgg_texture import cell_regions, vgg_texture
from foveation_jax.transforms.zones import blur_moments, target_moments
from foveation_jax.vgg.encoder_decoder import reconstruct
from tests.accelerators.program import Program


def vgg(widths=(3, 4, 4, 4, 4)) -> tuple[dict, dict]:
    """Encoder and decoder of one convolution a block."""

    def layer(side, inputs, outputs):
        return {
            "kernel": jnp.full((side, side, inputs, outputs), 0.1),
            "bias": jnp.zeros(outputs),
        }

    pairs = list(enumerate(itertools.pairwise(widths), 1))
    encoder = {f"conv{block}_1": layer(3, *sides) for block, sides in pairs}
    decoder = {f"conv{block}_1": layer(3, *reversed(sides)) for block, sides in pairs}
    return {"color": layer(1, 3, 3)} | encoder, decoder


def stage1(n_images: int = 5, side: int = 64) -> dict[str, Program]:
    """What is done to images, and measured of them; no loop may be as long as there are images."""
    images = jax.ShapeDtypeStruct((n_images, side, side, 3), jnp.float32)
    levels = jax.ShapeDtypeStruct(images.shape, jnp.uint8)
    places = jax.ShapeDtypeStruct((n_images, 2), jnp.float32)
    windows = pooling_windows(0.4, (side, side), published=False)
    key = jax.random.key(0)
    networks = vgg()

    def seen(name, **options):
        return lambda images: transform(name, images, key, **options)

    def route(images):
        rough = reconstruct(*networks, images)
        return vgg_texture(images, rough, cell_regions(windows), *networks)

    def moving(levels, places):
        return perceive_batch("foveation_texture", {}, levels, key, places)

    def own_noise(levels):
        keys = jax.random.split(key, n_images)
        return perceived_each("foveation_texture", {}, levels, keys)

    def exported(images):
        known = jnp.zeros((n_images, 2), jnp.uint32), jnp.full((n_images, 2), side / 2)
        config = ConfigDict({"seed": 0, "scale": 0.4})
        return pictures.system_of("foveation_texture", config)(images, known)

    def fixated(images, places):
        return transform("foveation_texture", images, key, fixation=places)

    def graded(images):
        return foveated_blur_batch(images, jnp.ones(windows.n_rings), windows)

    def target(images, places):
        return target_moments(images, images, places, windows, "foveation_blur", "ssim")

    def blurred(images, places):
        sigmas = jnp.ones(windows.n_rings)
        return blur_moments(images, images, places, sigmas, windows, "foveation_blur", "ssim")

    def measured(images):
        usable = metrics.metrics_for(images.shape[1:3])
        return [metrics.METRICS[name](images, images[:, ::-1]) for name in usable]

    def probed(images):
        low = probes.low_pass(images, 2.0)
        return probes.window_conflict(low, images, 2)

    rows = {
        "texture": (seen("foveation_texture"), (images,)),
        "texture: pyramid": (seen("foveation_texture", route="pyramid"), (images,)),
        "texture: vgg": (route, (images,)),
        "texture: eye movements": (moving, (levels, places)),
        "texture: a noise each": (own_noise, (levels,)),
        "texture: pictures of a folder": (exported, (images,)),
        "texture: a fixation each": (fixated, (images, places)),
        "texture: statistics": (lambda images: texture_statistics(images, images), (images,)),
        "uniform blur": (seen("uniform_blur", sigma=2.0), (images,)),
        "foveated blur": (graded, (images,)),
        "matching: target": (target, (images, places)),
        "matching: blurs": (blurred, (images, places)),
        "metrics": (measured, (images,)),
        "probes": (probed, (images,)),
    }
    return {name: Program(*row, True, (n_images,)) for name, row in rows.items()}


def training(
    network: str = "alexnet",
    runs: int = 3,
    batch: int = 5,
    side: int = 64,
    precision: str = "float32",
    width: float = 0.125,
) -> dict[str, Program]:
    """A step of paired runs, and their answers, on the devices of the mesh in use."""
    recipe = Recipe(batch_size=batch, precision=precision)
    module = make_network(network, 20, width=width)
    setup = Setup(module, recipe, runs, 0, 1000 * batch, (side, side))
    place = NamedSharding(setup.mesh, IMAGES)
    images = jax.ShapeDtypeStruct((runs, batch, side, side, 3), jnp.uint8, sharding=place)
    labels = jax.ShapeDtypeStruct((runs, batch), jnp.int32, sharding=place)
    state = state_shapes(setup)
    shown = jax.ShapeDtypeStruct(images.shape[1:], jnp.uint8)
    answers = functools.partial(run_logits, module, mesh=setup.mesh)
    return {
        f"{network}: training": Program(
            make_step(setup), (state, images, labels), False, (batch,), (0,)
        ),
        f"{network}: answers": Program(answers, (state.variables, shown), True, (batch,)),
    }


def programs() -> dict[str, Program]:
    """Name -> program, small."""
    return stage1() | training("alexnet") | training("resnet18") | training("vgg11")
