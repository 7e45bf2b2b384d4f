"""What V trained networks answer: logits of held-out images, and how good they are.

Written for one run and one batch; `runs/mesh.py` makes V of it, which the devices share.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Shaped

from foveation_jax.networks import normalise
from foveation_jax.runs.devices import WHOLE
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import over_runs, runs_mesh
from foveation_jax.runs.precision import exact

T = TypeVar("T")
AHEAD = 2  # computations under way while the host waits for the one before them


def run_logits(
    network: nn.Module,
    variables: Any,
    images: Shaped[Array, "N Y X 3"],
    mesh: Mesh | None = None,
) -> Float[Array, "V N L"]:
    """Logits of every run for images in [0, 1], or uint8; to be used inside compiled functions.

    Args:
        network: module with `apply(variables, images, train) -> (logits [N, L], out)`.
        variables: leaves [V, ...], as `load_variables` gives them.
        images: what stage 1 lets through.
        mesh: where the variables are, if not where `runs_mesh` of V has them.
    """
    pixels = images / jnp.float32(255) if images.dtype == jnp.uint8 else images
    inputs = normalise(pixels)

    def of_run(variables, inputs):
        with exact():
            return network.apply(variables, inputs, train=False)[0]

    mesh = mesh or runs_mesh(jax.tree.leaves(variables)[0].shape[0])
    logits = over_runs(of_run, mesh, shared=1)(variables, inputs)
    if jax.process_count() > 1:  # each needs them all
        logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, WHOLE))
    return logits


_compiled = jax.jit(run_logits, static_argnums=(0, 3))


def compiled_logits(
    network: nn.Module, variables: Any, images: Shaped[Array | np.ndarray, "N Y X 3"]
) -> Float[Array, "V N L"]:
    """`run_logits`, compiled, on the devices where the variables are."""
    place = getattr(jax.tree.leaves(variables)[0], "sharding", None)
    mesh = place.mesh if isinstance(place, NamedSharding) else None
    return _compiled(network, variables, images, mesh)


def predict(
    network: nn.Module,
    variables: Any,
    images: Shaped[np.ndarray, "N Y X 3"],
    batch_size: int = 64,
) -> Float[np.ndarray, "V N L"]:
    """`run_logits` of any number of images, batch by batch in one compiled program.

    The last batch is filled up with its first image. Answers do not depend on the batch size, up
    to rounding.

    Raises:
        InputError: no images, or the variables are not those of `network` on such images.
    """
    if not len(images):
        raise InputError("images is empty: there must be one or more.")
    check_variables(network, variables, images.shape[1:3])

    def batch(start):
        rows = np.arange(start, start + batch_size)
        return images[np.where(rows < len(images), rows, start)]

    starts = range(0, len(images), batch_size)
    logits = (compiled_logits(network, variables, batch(start)) for start in starts)
    return np.concatenate([np.asarray(part) for part in delay(logits)], 1)[:, : len(images)]


def delay(items: Iterable[T], ahead: int = AHEAD) -> Iterator[T]:
    """`items` in order, each given only when `ahead` more have been asked for.

    Reading a device's results through it keeps `ahead` computations under way, and no more.
    """
    waiting = []
    for item in items:
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.pop(0)
    yield from waiting


def check_variables(network: nn.Module, variables: Any, size: tuple[int, int]) -> None:
    """Raises InputError unless `variables`, leaves [V, ...], fit `network` on (Y, X) images."""
    wanted, given = _shapes(network, tuple(size)), dict(_named_shapes(variables))
    for name in sorted(wanted.keys() | given.keys()):
        found = given.get(name, (None,))[1:]
        if name not in wanted or name not in given or found != wanted[name]:
            raise InputError(
                f"weights: {name} has shape {found if name in given else 'none'}, and "
                f"{type(network).__name__} on {size[0]} x {size[1]} images has "
                f"{wanted.get(name, 'none')}; these are weights of another network."
            )


@functools.lru_cache
def _shapes(network, size):
    """Name -> shape of every array of one run."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    init = functools.partial(network.init, train=False)
    return dict(_named_shapes(jax.eval_shape(init, jax.random.key(0), image)))


def _named_shapes(variables):
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape


@dataclasses.dataclass(frozen=True)
class Score:
    """How well every run classifies labelled images.

    Attributes:
        loss: mean cross-entropy.
        accuracy: fraction classified correctly.
        class_accuracy: the same within each class; NaN where a class has no image.
    """

    loss: Float[np.ndarray, " V"]
    accuracy: Float[np.ndarray, " V"]
    class_accuracy: Float[np.ndarray, "V L"]


def score(logits: Float[np.ndarray, "V N L"], labels: Int[np.ndarray, " N"]) -> Score:
    """Cross-entropy and accuracies; `accuracy` is the mean of `class_accuracy` weighted by size."""
    log_likelihood = scipy.special.log_softmax(logits.astype(np.float64), -1)
    correct = np.argmax(logits, -1) == labels
    members = labels == np.arange(logits.shape[-1])[:, None]  # [L, N]
    sizes = members.sum(1)
    class_accuracy = np.where(
        sizes > 0, (correct @ members.T.astype(float)) / np.maximum(sizes, 1), np.nan
    )
    return Score(
        -log_likelihood[:, np.arange(len(labels)), labels].mean(1),
        correct.mean(1),
        class_accuracy,
    )
