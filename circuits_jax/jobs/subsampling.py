"""AUC of the discrete-code method over many draws of prompts and settings, from one capture.

Pairs are captured once. A draw is an order of the pairs: its first `trained` ones train the
autoencoders, its first `counted` ones are counted (arXiv 2405.12522 trains on 10 prompts and counts
500). Sizes differ from cell to cell but shapes do not: a smaller set is repeated until it is as
long as the largest, which changes neither the loss, a mean over rows, nor the scores, means over
pairs or numbers of distinct codes. So all cells, draws and penalties are one program for training
and one for scoring.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from sklearn import metrics

from circuits_jax.codes import fit, sae
from circuits_jax.evaluation.captured import CapturedOutputs, head_scores
from circuits_jax.methods.sae_codes import SaeCodes
from circuits_jax.runs.errors import InputError

AT_ONCE = 8  # cells scored together


def orders(key: jax.Array, n_pairs: int, n_draws: int) -> Int[np.ndarray, "S B"]:
    """Random orders of the pairs."""
    draw = jax.vmap(functools.partial(jax.random.permutation, x=n_pairs))
    return np.asarray(draw(jax.random.split(key, n_draws)))


def subsets(
    order: Int[np.ndarray, "S B"], sizes: Sequence[int], field: str
) -> Int[np.ndarray, "C S M"]:
    """The first pairs of every order, for every size, repeated to the largest size M.

    Raises:
        InputError: a size that is not in 1 ... B, or does not divide the largest.
    """
    most = max(sizes)
    for size in sizes:
        if not 1 <= size <= order.shape[1] or most % size:
            raise InputError(
                f"{field} has {size}; allowed are 1 to {order.shape[1]} pairs that divide the "
                f"largest of the sizes, {most}"
            )
    return np.stack([np.tile(order[:, :size], most // size) for size in sizes])


def scores(
    key: jax.Array,
    captured: CapturedOutputs,
    options: SaeCodes,
    trained: Int[np.ndarray, "C S M"],
    counted: Int[np.ndarray, "C S M2"],
    l1: Sequence[float],
) -> Float[np.ndarray, "P C S L H"]:
    """Head scores of every penalty, cell and draw.

    Args:
        key: of the autoencoders.
        captured: all pairs.
        options: of the method; its `l1` is not used.
        trained: pairs that train, by cell and draw.
        counted: pairs that are counted.
        l1: P penalties.
    """
    n_cells, n_draws = trained.shape[:2]
    x = _training_inputs(captured, trained.reshape(n_cells * n_draws, -1))
    settings = sae.Settings(jnp.asarray(l1, jnp.float32), options.learning_rate)
    params, _ = fit.fit(
        key,
        x.reshape(-1, *x.shape[2:]),
        options.sae_config,
        settings,
        d_model=captured.d_model,
    )
    sets = (len(l1) * n_cells * n_draws, 1, 1, x.shape[1])
    params = jax.tree.map(lambda v: v.reshape(*sets, *v.shape[3:]), params)
    rows = np.tile(counted.reshape(n_cells * n_draws, -1), (len(l1), 1))
    found = _scored(params, captured, rows, options)
    return np.asarray(found).reshape(len(l1), n_cells, n_draws, *captured.heads)


@jax.jit
def _training_inputs(
    captured: CapturedOutputs, pairs: Int[Array, "X M"]
) -> Float[Array, "X A N R"]:
    return jax.vmap(lambda pairs: captured.of_pairs(pairs).x)(pairs)


@functools.partial(jax.jit, static_argnames="options")
def _scored(
    params: sae.SaeParams, captured: CapturedOutputs, rows: Int[Array, "X M"], options: SaeCodes
) -> Float[Array, "X L H"]:
    def one(item):
        params, rows = item
        return head_scores(params, captured.of_pairs(rows), options)

    return jax.lax.map(one, (params, rows), batch_size=AT_ONCE)


def aucs(
    found: Float[np.ndarray, "*draws L H"], truth: Bool[np.ndarray, "L H"]
) -> Float[np.ndarray, "*draws"]:
    """ROC AUC of every draw's scores; NaN where all heads, or none, are in the circuit."""
    flat = found.reshape(-1, truth.size)
    if truth.all() or not truth.any():
        return np.full(found.shape[:-2], np.nan)
    aucs = [metrics.roc_auc_score(truth.reshape(-1), one) for one in flat]
    return np.array(aucs).reshape(found.shape[:-2])
