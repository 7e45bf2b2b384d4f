r"""Attribution patching: exact patching of every head to first order, from one gradient.

AtP (Nanda 2023; Syed et al., arXiv 2310.10348; Kramar et al., arXiv 2403.00745). With m the task's
metric and z_g what head g reads, the drop of m when z_g is replaced by z'_g of the paired negative
is to first order

    effect_g = < dm / dz_g (at the positive prompt), z_g - z'_g >,   summed over positions.

With every head scaled as `keep z + (1 - keep) z'` (`interpose.replace`), that product is the
derivative of m by keep_g at keep = 1, so one gradient with respect to the mask [L, H] gives all
heads and no gradient of the size of z is held.

With integrated gradients (Sundararajan et al., arXiv 1703.01365) the same derivative is averaged
over `steps` points keep = i / steps, i = 1 ... steps, of the line on which all heads go from the
negative's z to the positive's. One step is AtP; with many, effects sum to m with no head replaced
minus m with all replaced (completeness), up to 1 / steps. kl has no slope where no head is
replaced; its gradients are taken midway between these points, that of one step at keep = 1/2.

By token span (`tasks/spans.py`) a head has one mask for each span. The derivatives are taken where
they are taken anyway, so effects of spans sum to that of the head.

Cost: one forward pass over the negatives, and `steps` forward and backward passes over the
positives.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture.ablation import Trial, trial
from circuits_jax.circuits.circuit import Scores, span_details
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.spans import spans_of
from circuits_jax.methods.edges import product_edges
from circuits_jax.runs import mesh
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import Task, metric_values
from circuits_jax.tasks.spans import check_schema


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Options of the method.

    Attributes:
        steps: points at which gradients are taken; 1 is plain attribution patching.
        spans: score heads by token span too: `changed`, `slots` or templates; "" for no spans.
        prompts_at_once: prompts that share a backward pass on one device, at most; long ones are
            fewer (`mesh.fitting`).

    Raises:
        InputError: a value that is not allowed.
    """

    steps: int = 1
    prompts_at_once: int = 32
    spans: str = ""

    def __post_init__(self):
        check_schema(self.spans)
        check_all(self, dict.fromkeys(("steps", "prompts_at_once"), Range(1)))


INTEGRATED = Attribution(steps=5)


def attribution(
    model: LanguageModel, task: Task, key: jax.Array, options: Attribution | None = None
) -> Scores:
    """Score heads by the first-order effect of replacing each by its output on the negative.

    Edges have no definition of their own here: see `product_edges`.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `Attribution`.

    Returns:
        Scores, in units of the metric, with `details`: `effects` [L, H], signed as those of exact
        patching: positive where replacing the head lowers the metric. With spans also those of
        `circuit.span_details`.
    """
    options = options or Attribution()
    pairs = task.learn
    prepared = trial(model, pairs, "resample", task.metric)
    given = model.config, model.params, prepared, task.metric, options
    if not options.spans:
        effects = jnp.mean(attributed_effects(*given), axis=0)
        details = {"effects": effects}
    else:
        sides = model.tokenize_pairs(pairs.positives, pairs.negatives)
        spans = spans_of(model, task, options.spans, sides)
        inside = jnp.asarray(spans.inside(prepared.batch.tokens.shape[1]))
        by_span = jnp.mean(attributed_effects(*given, inside), axis=0)
        effects = jnp.sum(by_span, axis=0)
        details = {"effects": effects, **span_details(spans.names, by_span)}
    head_scores = jnp.abs(effects)
    return Scores(head_scores, product_edges(head_scores), details)


def attributed_effects(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    metric: str,
    options: Attribution,
    inside: Bool[Array, "S B T"] | None = None,
) -> Float[Array, "B *S L H"]:
    """First-order drop of the metric by prompt and head; prompts are spread over the devices.

    Whatever the trial replaces heads by: the derivative by keep, at all heads kept if steps is 1.
    Given which tokens are inside of S spans, that of each span.
    """
    effects = _effects(config, params, trial, metric, options, inside)
    return mesh.gather(effects, len(trial.batch.tokens))


@functools.partial(jax.jit, static_argnames=("config", "metric", "options"))
def _effects(config, params, trial, metric, options, inside):
    """`attributed_effects` before it is gathered."""
    middle = 0.5 if metric == "kl" else 0
    points = (jnp.arange(1, options.steps + 1) - middle) / options.steps
    replacement = trial.replacement.swapaxes(0, 1)
    replacement = jnp.broadcast_to(replacement, (len(trial.batch.tokens), *replacement.shape[1:]))
    prompts = [trial.batch, trial.targets, replacement]
    if inside is not None:
        prompts.append(inside.swapaxes(0, 1).astype(jnp.float32))
    shape = config.heads if inside is None else (len(inside), *config.heads)
    rows, structure = jax.tree.flatten(prompts)

    def of_one_prompt(rows, constants):
        params, points = constants
        batch, targets, replacement, *inside = jax.tree.unflatten(
            structure, [x[None] for x in rows]
        )

        def value(keep):
            if inside:  # then of heads at tokens; every token is in one span, or is padding
                keep = einsum("slh,bst->lbth", keep, inside[0])
            logits = interpose.replace(config, params, batch, keep, replacement.swapaxes(0, 1))
            return metric_values(logits, targets, metric)[0]

        def gradient(point):
            return jax.grad(value)(jnp.full(shape, point))

        return jnp.mean(jax.lax.map(gradient, points), axis=0)

    length = trial.batch.tokens.shape[1]
    at_once = config.fitting(options.prompts_at_once, config.n_layers, length)
    return mesh.spread(of_one_prompt, rows, (params, points), at_once)
