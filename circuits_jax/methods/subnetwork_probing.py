r"""Subnetwork probing: masks of heads, learnt by gradient descent to be small and to change little.

Cao et al., arXiv 2104.03514, over heads and without a probe on top, as ACDC compares with it
(arXiv 2304.14997). Every head has a hard concrete mask (Louizos et al., arXiv 1712.01312)
of one parameter a = log alpha; with u uniform in (0, 1), beta = 2/3, gamma = -0.1, zeta = 1.1,

    s    = sigmoid((log u - log(1 - u) + a) / beta)
    keep = clip(s (zeta - gamma) + gamma, 0, 1)
    P(keep > 0) = sigmoid(a - beta log(-gamma / zeta)),

which is exactly 0 or 1 often enough to be a choice and has a gradient where it is neither. Adam
makes

    mean over prompts of divergence(whole model, heads kept by keep)  +  l0 * mean_g P(keep_g > 0)

small (`tasks/divergence.py`), one draw of u for every step. A head's score is P(keep > 0) in the
end, averaged over seeds: in [0, 1]; 0 where no draw of its mask moves the divergence by more than
rounding, where P would be what `l0` and the steps leave of its start. ROC AUC against exact
patching (SmolLM2-135M, IOI, 5 pairs): .91.

Cost: two forward passes, then `steps` times `n_seeds` forward and backward passes over the
positives. Of two heads that do the same it may keep either one; seeds tell. Not for a quick look,
and not where `l0` cannot be chosen: it sets the circuit's size, and scores tell little among
the heads on either side of that.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from circuits_jax import interpose
from circuits_jax.capture.ablation import Ablation, Trial, trial
from circuits_jax.circuits.circuit import Scores, above_noise
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.edges import product_edges
from circuits_jax.runs import mesh
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import Task
from circuits_jax.tasks.divergence import Divergence, divergences

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # of the hard concrete distribution
START = 0.9  # P(keep > 0) of every head at first


@dataclasses.dataclass(frozen=True)
class SubnetworkProbing:
    """Options of the method.

    Attributes:
        l0: weight of the expected share of heads kept, in units of the divergence.
        divergence: `kl` or `metric`: see `tasks/divergence.py`.
        replacement: what heads say that are not kept, `zero`, `mean` or `resample`.
        steps: of Adam.
        learning_rate: of Adam, in units of log alpha.
        n_seeds: masks that are learnt, each with draws of its own.
        prompts_at_once: prompts that share a backward pass, at most; long ones are fewer
            (`mesh.fitting`).

    Raises:
        InputError: a value that is not allowed.
    """

    l0: float | int = 1.0
    divergence: Divergence = "kl"
    replacement: Ablation = "resample"
    steps: int = 80
    learning_rate: float | int = 0.1
    n_seeds: int = 1
    prompts_at_once: int = 32

    def __post_init__(self):
        least = {"l0": 0, "steps": 1, "learning_rate": 0, "n_seeds": 1, "prompts_at_once": 1}
        check_all(self, {name: Range(value) for name, value in least.items()})


def hard_concrete(
    log_alpha: Float[Array, "..."], uniform: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Masks in [0, 1] from uniform numbers in (0, 1): rising in both."""
    logit = jnp.log(uniform) - jnp.log1p(-uniform)
    s = jax.nn.sigmoid((logit + log_alpha) / BETA)
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)


def probability(log_alpha: Float[Array, "..."]) -> Float[Array, "..."]:
    """How likely `hard_concrete` is above 0."""
    return jax.nn.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def subnetwork_probing(
    model: LanguageModel, task: Task, key: jax.Array, options: SubnetworkProbing | None = None
) -> Scores:
    """Score heads by how likely a learnt mask keeps them.

    Edges have no definition of their own here: see `product_edges`.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: gives the draws of all masks.
        options: see `SubnetworkProbing`.

    Returns:
        Scores in [0, 1], with `details`, by seed: `log_alpha` [S, L, H], and `divergences` and
        `kept` [S, steps], the two parts of what is made small (without `l0`) before each step.
    """
    options = options or SubnetworkProbing()
    prepared = trial(model, task.learn, options.replacement, task.metric)
    keys = jax.random.split(key, options.n_seeds)
    learnt = _learnt(model.config, model.params, prepared, keys, task.metric, options)
    log_alpha, lost, kept, pull = mesh.gather(learnt, options.n_seeds)
    if not np.isfinite(lost).all():
        seed, step = np.argwhere(~np.isfinite(lost))[0]
        raise InputError(
            model.first_not_finite([*task.learn.positives, *task.learn.negatives])
            or f"subnetwork_probing: the divergence is not finite at step {step} (seed {seed}); "
            "lower learning_rate"
        )
    heard = above_noise(np.asarray(pull).max(axis=0))
    head_scores = jnp.mean(probability(log_alpha), axis=0) * heard
    details = {"log_alpha": log_alpha, "divergences": lost, "kept": kept}
    return Scores(head_scores, product_edges(head_scores), details)


@functools.partial(jax.jit, static_argnames=("config", "metric", "options"))
def _learnt(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    keys: Any,
    metric: str,
    options: SubnetworkProbing,
):
    """Masks, how they came about, and the steepest slope by each, for every seed, ungathered."""
    whole = interpose.last_logits(config, params, trial.batch)
    adam = optax.adam(options.learning_rate)

    def of_seed(key, constants):
        share = jax.grad(lambda log_alpha: jnp.mean(probability(log_alpha)))

        def step(state, key):
            log_alpha, moments, pull = state
            uniform = jax.random.uniform(key, (math.prod(config.heads),), minval=1e-6, maxval=1)
            uniform = jnp.minimum(uniform, 1 - 1e-6).reshape(config.heads)
            keep, pull_back = jax.vjp(lambda a: hard_concrete(a, uniform), log_alpha)
            lost, by_keep = _slope(config, constants, keep, metric, options)
            gradient = pull_back(by_keep)[0] + options.l0 * share(log_alpha)
            updates, moments = adam.update(gradient, moments)
            kept = jnp.mean(probability(log_alpha))
            pull = jnp.maximum(pull, jnp.abs(by_keep))
            return (optax.apply_updates(log_alpha, updates), moments, pull), (lost, kept)

        start = math.log(START / (1 - START)) + BETA * math.log(-GAMMA / ZETA)
        start = jnp.full(config.heads, start)
        state, (lost, kept) = jax.lax.scan(
            step,
            (start, adam.init(start), jnp.zeros(config.heads)),
            jax.random.split(key, options.steps),
        )
        return state[0], lost, kept, state[2]

    return mesh.spread(of_seed, keys, (params, trial, whole), 1)


def _slope(config, constants, keep, metric, options):
    """Mean divergence over prompts with heads kept by `keep`, and its gradient by `keep`."""
    params, trial, whole = constants
    replacement = trial.replacement.swapaxes(0, 1)
    replacement = jnp.broadcast_to(replacement, (len(whole), *replacement.shape[1:]))
    rows, structure = jax.tree.flatten((trial.batch, trial.targets, replacement, whole))

    def of_prompt(row):
        prompt = jax.tree.unflatten(structure, [x[None] for x in row])
        batch, targets, replacement, whole = prompt

        def lost(keep):
            other = replacement.swapaxes(0, 1)
            logits = interpose.replace(config, params, batch, keep, other)
            return divergences(logits, whole, targets, metric, options.divergence)[0]

        return jax.value_and_grad(lost)(keep)

    most = min(options.prompts_at_once, len(whole))
    at_once = config.fitting(most, config.n_layers, trial.batch.tokens.shape[1])
    found = jax.lax.map(of_prompt, rows, batch_size=at_once)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
