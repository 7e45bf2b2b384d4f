"""How much of a circuit would be found again: bootstraps over prompts and autoencoders' seeds.

Heads are captured once, and autoencoders are trained once for each seed, on all prompts. A head's
score is read off its integer codes, so what a resample of the pairs (with replacement, Efron 1979)
scores follows from the codes of its rows alone: all bootstraps are one compiled program, with no
forward pass and no training in it. What is held still is the codebook; what varies is which
prompts speak, and which seed's codebook they speak in.

Agreement between bootstraps is the Jaccard index of their circuits, |A n B| / |A u B|; .8 is the
least that arXiv 2510.00845 asks for, which finds .67 for IOI circuits of GPT-2.
"""

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.circuits.circuit import above_noise, top
from circuits_jax.codes import fit, sae
from circuits_jax.evaluation.arguments import check_arguments
from circuits_jax.evaluation.captured import CapturedOutputs, captured_outputs, head_scores
from circuits_jax.lm import performance
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.sae_codes import SaeCodes
from circuits_jax.runs import errors, files, keys, mesh
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import Task, task_warning

INTERVAL = (2.5, 97.5)  # percentiles
AT_ONCE = 10  # bootstraps computed together


@struct.dataclass
class Stability:
    """What N bootstraps say of every head.

    Attributes:
        head_scores: of every bootstrap.
        seed: of the autoencoders, in each bootstrap.
        rows: pairs that each bootstrap drew, of B.
        circuits: the best heads of each bootstrap, as many in all; fewer where the others' scores
            are rounding noise.
        frequency: share of the circuits that hold the head.
        interval: the middle 95 % of the head's scores.
        jaccard: mean over all pairs of two bootstraps; 1 where all circuits are the same.
    """

    head_scores: Float[np.ndarray, "N L H"]
    seed: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, "N B"]
    circuits: Bool[np.ndarray, "N L H"]
    frequency: Float[np.ndarray, "L H"]
    interval: Float[np.ndarray, "2 L H"]
    jaccard: float

    def __repr__(self) -> str:
        return (
            f"Stability({len(self.circuits)} bootstraps, mean Jaccard index {self.jaccard:.2f}, "
            f"{int(self.core().sum())} heads in at least 80 % of the circuits)"
        )

    def core(self, share: float | int = 0.8) -> Bool[np.ndarray, "L H"]:
        """Heads in at least this share of the circuits; smaller for a larger share."""
        return self.frequency >= share - 1e-9


def bootstrap(
    model: LanguageModel,
    task: Task,
    key: jax.Array | int | None = None,
    options: SaeCodes | None = None,
    *,
    n: int = 100,
    n_seeds: int = 5,
    size: int | None = None,
    measured: Mapping[str, performance.Performance] | None = None,
) -> Stability:
    """Bootstrap the scores and the circuit of `sae_codes`.

    Args:
        model: a loaded model.
        task: its `learn` pairs are resampled.
        key: of the autoencoders and the resamples: a seed, or a key; default seed 0.
        options: of the method.
        n: bootstraps; they take turns with the seeds.
        n_seeds: sets of autoencoders, each a fit of its own: what a bootstrap costs beyond a run.
        size: heads in a circuit; default a quarter of all.
        measured: the model's performance, where `performance.measure` was called before.

    Raises:
        InputError: fewer than one bootstrap or seed, a size that is not in 1 ... G, unusable
            prompts, an argument in the place of another, or a task without contrast.

    Warns:
        TaskWarning: as `discover`.
    """
    if isinstance(key, SaeCodes) and options is None:
        key, options = None, key
    options = options or SaeCodes()
    check_arguments(model=model, task=task)
    errors.check_kind("options", options, SaeCodes, "of a method with codes")
    key = keys.stream(key, "method")
    n_heads = model.config.n_layers * model.config.n_heads
    size = round(n_heads / 4) if size is None else size
    limits = {"n": (n, Range(1)), "n_seeds": (n_seeds, Range(1)), "size": (size, Range(1, n_heads))}
    for name, given in limits.items():
        check_allowed(name, *given)
    if measured is None:
        measured = performance.measure(model, task, ("learn",))
    task_warning.warn([*performance.doubts(measured), *performance.remarks(measured)])
    fit_key, draw_key = jax.random.split(key)
    captured = captured_outputs(model, task.learn, options)
    params, _ = fit.fit(
        fit_key,
        captured.x,
        options.sae_config,
        options.settings,
        d_model=captured.d_model,
        n_seeds=n_seeds,
    )
    rows = resamples(draw_key, len(task.learn), n)
    seed = np.arange(n) % n_seeds
    scores = np.asarray(resampled_scores(params, captured, seed, rows, options))
    return _stability(scores, seed, rows, size)


def _stability(scores, seed, rows, size: int) -> Stability:
    """What the scores of all bootstraps say, with circuits of `size` heads."""
    circuits = np.stack([top(one, size) & above_noise(one) for one in scores])
    return Stability(
        head_scores=scores,
        seed=seed,
        rows=rows,
        circuits=circuits,
        frequency=circuits.mean(axis=0),
        interval=np.percentile(scores, INTERVAL, axis=0),
        jaccard=mean_jaccard(circuits),
    )


def save(path: Path, stability: Stability) -> None:
    """Write all fields as arrays of an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **vars(stability))
    files.write(path, buffer.getvalue())


def load(path: Path) -> Stability:
    """What `save` wrote.

    Raises:
        InputError: no such file, one that is damaged or something else, or a number in it that is
            not finite.
    """
    fields: dict[str, Any] = dict(files.read_arrays(path))
    for name, values in fields.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0].tolist()
            raise InputError(f"{path}: {name} holds {values[tuple(place)]} at {place}")
    try:
        return Stability(**fields | {"jaccard": float(fields["jaccard"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not hold bootstraps ({error!r})") from error


def resamples(key: jax.Array, n_pairs: int, n: int) -> Int[np.ndarray, "n B"]:
    """`n` draws of as many pairs as there are, with replacement."""
    return np.asarray(jax.random.randint(key, (n * n_pairs,), 0, n_pairs)).reshape(n, n_pairs)


@functools.partial(jax.jit, static_argnames="options")
def resampled_scores(
    params: sae.SaeParams,
    captured: CapturedOutputs,
    seed: Int[Array | np.ndarray, " N"],
    rows: Int[Array | np.ndarray, "N B"],
    options: SaeCodes,
) -> Float[Array, "N L H"]:
    """Head scores of every resample of the pairs, by the autoencoders of its seed.

    Rows 0 ... B - 1 give the scores of the method itself.

    Args:
        params: of all seeds, [S 1 G ...].
        captured: all pairs.
        seed: which autoencoders, in each resample.
        rows: which pairs, in each resample.
        options: of the method.
    """

    def score(item, constants):
        (seed, rows), (params, captured) = item, constants
        own = jax.tree.map(lambda x: x[seed][None], params)
        return head_scores(own, captured.of_pairs(rows), options)

    items = jnp.asarray(seed), jnp.asarray(rows)
    return mesh.joined(mesh.spread(score, items, (params, captured), AT_ONCE), len(seed))


def mean_jaccard(circuits: Bool[np.ndarray, "N L H"]) -> float:
    """Mean Jaccard index over all pairs of two circuits; 1 for a single one, and of empty ones."""
    if len(circuits) == 1:
        return 1.0
    flat = circuits.reshape(len(circuits), -1).astype(float)
    shared = flat @ flat.T
    sizes = np.diag(shared)
    union = sizes[:, None] + sizes[None, :] - shared
    off = ~np.eye(len(circuits), dtype=bool)
    return float(np.where(union, shared / np.maximum(union, 1), 1)[off].mean())
