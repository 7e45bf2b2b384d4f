"""Trains the vgg route's decoder for a given encoder, so that nobody needs the authors' weights.

Every step decodes two versions of each photograph's relu4_1 features [N, P, Q, 512]: as they are,
and with every pooling region turned into texture by a random amount. With E the encoder, f the
features given and x the decoded image,

    loss = |E_4(x) - f|^2                                          content (arXiv 1703.06868, eq.
    12)      + weight sum_l |mean E_l(x) - mean E_l(I)|^2 + |dev E_l(x) - dev E_l(I)|^2

where l runs over relu1_1 to relu4_1, I is the photograph, and means and deviations are taken in a
grid of 8 x 8 tiles: texture keeps local statistics, so the decoder must give them back.
"""

import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from foveation_jax.config import decoder_training
from foveation_jax.data import embedded_images, open_folder, read_batches
from foveation_jax.data.sources import ImageSource
from foveation_jax.jobs.workdir import claim_workdir, fingerprints
from foveation_jax.runs.checks import Range, check_all
from foveation_jax.runs.command import check_values
from foveation_jax.runs.devices import placed
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import append_rows, read_rows, write_rows
from foveation_jax.runs.lock import one_at_a_time
from foveation_jax.runs.progress import progress
from foveation_jax.stage1.export import images_mesh, shard_images, whole_batches
from foveation_jax.training.checkpoints import load_latest, save_latest
from foveation_jax.training.rows import check_rows
from foveation_jax.transforms.noise import coral
from foveation_jax.transforms.vgg_texture import CellRegions, cell_regions, mix_regions
from foveation_jax.vgg.encoder_decoder import Network, decode, encode, init_decoder
from foveation_jax.vgg.weight_files import load_encoder, save_weights
from foveation_jax.windows.pooling_windows import pooling_windows

TILES = 8  # a side
LOG_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Trained:
    """Where the trained weights are, and the last loss."""

    weights: pathlib.Path
    loss: float

    def lines(self) -> list[str]:
        """What the command prints at the end."""
        return [f"loss: {self.loss:.5f}", f"weights: {self.weights}"]


@one_at_a_time
def run(config: ConfigDict, workdir: pathlib.Path) -> Trained:
    """Trains for `config.steps` steps; goes on from the last checkpoint in `workdir`.

    Step i sees the same photographs and noise in every run, stopped or not.

    Raises:
        InputError: a field that cannot be used, no photographs, a file that holds no encoder, a
            `workdir` of other files or with damaged ones, or a loss that is not finite.
    """
    _check(config)
    encoder = load_encoder([pathlib.Path(config.encoder)])
    source = open_folder(config.images) if config.images else embedded_images(0, tuple(config.size))
    places = {"encoder": [pathlib.Path(config.encoder)]}
    if config.images:
        places["images"] = [pathlib.Path(config.images)]
    claim_workdir(workdir, config, fingerprints(workdir, places))
    size, key = tuple(config.size), jax.random.key(config.seed)
    windows = pooling_windows(config.scale, size, published=False)
    step_function = make_step(encoder, cell_regions(windows), config)
    state = _replicate(init_state(key, encoder, config))
    folder, path = workdir / "checkpoints", workdir / "metrics.jsonl"
    done, state = load_latest(folder.absolute(), lambda: _shapes(state), folder) or (0, state)
    rows = _rows_until(path, done, folder)
    batches = training_batches(source, size, whole_batches(config.batch_size), config.seed, done)
    with progress("steps", config.steps) as advance:
        advance(done)
        for step in range(done + 1, config.steps + 1):
            images = shard_images(next(batches))
            state, losses = step_function(state, images, jax.random.fold_in(key, step))
            if step % LOG_EVERY == 0 or step == config.steps:
                rows.append({"step": step} | {name: float(v) for name, v in losses.items()})
                if not math.isfinite(rows[-1]["loss"]):
                    raise InputError(
                        f"training: the loss is not finite at step {step}; lower learning_rate."
                    )
                append_rows(path, rows[-1:])
            if step % config.checkpoint_every == 0 or step == config.steps:
                save_latest(folder.absolute(), step, state)
            advance(1)
    weights = workdir / "vgg.safetensors"
    save_weights(weights, encoder, state["decoder"])
    return Trained(weights, rows[-1]["loss"])


def _shapes(state):
    """Shapes, types and places of a state's arrays."""
    return jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding), state
    )


def _rows_until(path: pathlib.Path, done: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of the first `done` steps; those of steps that are to be done again are removed."""
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= done]
    if len(kept) < len(rows):
        write_rows(path, kept)
    steps = {row["step"] for row in kept}
    needed = {*range(LOG_EVERY, done + 1, LOG_EVERY), done} if done else set()
    others = steps - needed  # the last ones of runs that were to be shorter
    found = [row["step"] for row in kept if row["step"] not in others]
    check_rows(path, "step", found, needed, f"remove {folder} to train again")
    return kept


def _check(config: ConfigDict) -> None:
    check_values(config, decoder_training())
    above = ("steps", "batch_size", "checkpoint_every", "learning_rate")
    check_all(config, dict.fromkeys(above, Range(0, open=(0,))))
    if len(config.size) != 2 or any(side < 64 or side % 64 for side in config.size):
        raise InputError(f"size is {tuple(config.size)}: both sides must be multiples of 64.")
    if not config.encoder:
        raise InputError("encoder is empty: name the file of a VGG encoder's weights.")


def _replicate(tree):
    """A copy of `tree` on every device."""
    return placed(tree, NamedSharding(images_mesh(), PartitionSpec()))


def init_state(key: PRNGKeyArray, encoder: Network, config: ConfigDict) -> dict:
    """Decoder and optimiser state before the first step."""
    decoder = init_decoder(key, encoder)
    return {"decoder": decoder, "optimiser": optax.adam(config.learning_rate).init(decoder)}


def make_step(encoder: Network, regions: CellRegions, config: ConfigDict):
    """The jitted step (state, images, key) -> (state, losses); the old state's memory is reused."""
    optimiser = optax.adam(config.learning_rate)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, key):
        def objective(decoder):
            return decoder_loss(decoder, encoder, images, key, regions, config.statistics_weight)

        (_, losses), gradient = jax.value_and_grad(objective, has_aux=True)(state["decoder"])
        updates, optimiser_state = optimiser.update(gradient, state["optimiser"])
        decoder = optax.apply_updates(state["decoder"], updates)
        return {"decoder": decoder, "optimiser": optimiser_state}, losses

    return step


def decoder_loss(
    decoder: Network,
    encoder: Network,
    images: Float[Array, "N Y X 3"],
    key: PRNGKeyArray,
    regions: CellRegions,
    statistics_weight: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of the module's equation, and its parts "loss", "content", "statistics".

    Args:
        decoder: to be trained.
        encoder: fixed.
        images: photographs in [0, 1].
        key: of the noise and of how much texture each photograph gets.
        regions: pooling regions of the images' size.
        statistics_weight: weight of the second term.
    """
    noise_key, amount_key = jax.random.split(key)
    white = jax.random.normal(noise_key, images.shape[1:])
    noise = jax.vmap(coral, (None, 0))(white, images)
    amount = jax.random.uniform(amount_key, (len(images), 1, 1, 1))
    levels = encode(encoder, images)
    texture = mix_regions(levels[-1], encode(encoder, noise)[-1], regions)
    mixed = levels[-1] + amount * (texture - levels[-1])
    features = jax.lax.stop_gradient(jnp.concatenate([levels[-1], mixed]))
    decoded = encode(encoder, decode(decoder, features))
    content = jnp.mean((decoded[-1] - features) ** 2)
    statistics = 0.0
    for level, decoded_level in zip(levels, decoded, strict=True):
        wanted = jnp.tile(tile_moments(level), (1, 2, 1, 1, 1))
        statistics += 2 * jnp.mean((tile_moments(decoded_level) - wanted) ** 2)
    loss = content + statistics_weight * statistics
    return loss, {"loss": loss, "content": content, "statistics": statistics}


def tile_moments(features: Float[Array, "N P Q C"]) -> Float[Array, "2 N T T C"]:
    """Mean and deviation of the features in T x T equal tiles, T = 8; sides are multiples of 8."""
    count, rows, columns, channels = features.shape
    shape = (count, TILES, rows // TILES, TILES, columns // TILES, channels)
    tiles = features.reshape(shape)
    mean, variance = tiles.mean((2, 4)), tiles.var((2, 4))
    return jnp.stack([mean, jnp.sqrt(variance + 1e-5)])


def training_batches(
    source: ImageSource, size: tuple[int, int], batch_size: int, seed: int, skip: int
) -> Iterator[Float[np.ndarray, "N Y X 3"]]:
    """Endless batches of shuffled photographs; the first `skip` are passed over unread.

    Every epoch has an order of its own, from (seed, epoch). A source smaller than a batch is
    repeated to fill one; what cannot be read is told, and others of its batch stand in its place.

    Raises:
        InputError: not one photograph of a whole epoch can be read.
    """
    count = len(source.names)
    per_epoch = max(1, count // batch_size)
    epoch, first = divmod(skip, per_epoch)
    told: set[str] = set()
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        order = np.resize(order, per_epoch * batch_size)
        readable, failures = first > 0, {}
        for batch in read_batches(source.subset(order), size, batch_size, range(first, per_epoch)):
            readable |= bool(batch.present.any())
            for name in batch.failures.keys() - told:
                print(f"{batch.failures[name]} It is left out.", file=sys.stderr)
            told |= batch.failures.keys()
            failures |= batch.failures
            there = np.flatnonzero(batch.present)
            stand_in = np.resize(there, len(batch.present)) if len(there) else batch.indices * 0
            yield batch.images[np.where(batch.present, np.arange(len(stand_in)), stand_in)]
        if not readable:
            raise InputError(f"images: no file can be read; {next(iter(failures.values()))}")
        epoch, first = epoch + 1, 0
