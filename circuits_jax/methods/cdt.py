r"""Contextual decomposition for transformers (CD-T): what of the answer is due to a head's output.

CD-T (Hsu et al., arXiv 2407.00886; rules of the authors' code). From head g on, every activation x
is split into a relevant and an irrelevant part, x = b + c, x itself being that of the plain forward
pass on the positive prompt. Head g starts with c = z'_g, what it says on the paired negative or, as
published, the mean over negatives (`ablation.trial`), and b = z_g - z'_g, at all tokens; all else
before starts with b = 0. Then

    linear       W b and W c; its bias goes to both, in proportion to |W b| and |W c|
    norm         the centred b and c times what the norm multiplied x by; its bias goes to both,
                 in proportion to |b| and |c|
    attention    patterns are those of x, held still: sum_s A(t, s) of the parts of the values
    experts      the router's weights are those of x, held still
    activation   f(c) and f(b + c) - f(c); so for the product of a gated MLP, which the paper has
                 not: f(c_gate) c_up, and the rest; and for a cap on logits
    residual     sums

and after an MLP's first and last projection, and after a layer, components in which the two parts
have opposite signs are resolved: the larger one takes the sum and the other becomes 0. With m the
task's metric, the head's relevance is

    effect_g = m(b + c) - m(c),   at the logits; m(b) itself where m is linear in them.

The paper goes on to look, in the same way, for heads that are relevant to the heads just found;
here relevance is to the answer alone, by all paths.

With rules="linear", the default, biases are irrelevant and signs are left as they are. Then c is a
forward pass with head g replaced, norms' scales and patterns held still: exact patching where these
do not move. ROC AUC against exact patching (SmolLM2-135M, IOI, 5 pairs):

                    z' = mean    of the paired negative
    published            .60        .84
    linear                          .93

Cost: two forward passes, then for each head the layers from its own up, in two parts but without
queries, keys and scores: (L + 1) / L of G forward passes, no backward pass. Patterns stay, so not
for heads that tell later heads where to look: of the two heads of tracr's `reverse`, the first one
has relevance 0.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from circuits_jax import interpose
from circuits_jax.capture.ablation import Ablation, Trial, trial
from circuits_jax.circuits.circuit import Scores
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import NORMS, activated, factor, softcap
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.edges import product_edges
from circuits_jax.runs import mesh
from circuits_jax.runs.checks import Range, check_all
from circuits_jax.runs.passes import layer_run
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import Task, metric_values

Splitting = Literal["linear", "published"]
TINY = 1e-8  # of a proportion's denominator


@dataclasses.dataclass(frozen=True)
class Cdt:
    """Options of the method.

    Attributes:
        rules: `linear` or `published`: see the module.
        replacement: what a head's irrelevant part is: `resample`, as published `mean`, or `zero`.
        heads_at_once: heads of a layer that are decomposed together on one device; bounds the
            memory.

    Raises:
        InputError: a value that is not allowed.
    """

    rules: Splitting = "linear"
    replacement: Ablation = "resample"
    heads_at_once: int = 16

    def __post_init__(self):
        check_all(self, {"heads_at_once": Range(1)})


def cdt(model: LanguageModel, task: Task, key: jax.Array, options: Cdt | None = None) -> Scores:
    """Score heads by the relevance of their outputs to the task's metric.

    Edges have no definition of their own here: see `product_edges`.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used.
        key: not used, nothing is random.
        options: see `Cdt`.

    Returns:
        Scores, in units of the metric, with `details`: `effects` [L, H], the mean over prompts of
        the relevance, positive where the head serves the task; scores are absolute values.
    """
    options = options or Cdt()
    prepared = trial(model, task.learn, options.replacement, task.metric)
    config, (n, length) = model.config, prepared.batch.tokens.shape
    found = [
        mesh.gather(_effects(config, model.params, part, task.metric, options), config.n_heads)
        for part in prepared.parts(config.fitting(n, config.n_layers, length))
    ]
    effects = np.mean(found, axis=0).T
    head_scores = jnp.abs(effects)
    return Scores(head_scores, product_edges(head_scores), {"effects": effects})


@struct.dataclass
class Whole:
    """What the plain forward pass leaves to the decomposition, of one layer or of all.

    Attributes:
        stream: the residual stream before the layer.
        pattern: of its attention.
        inverse_scales: what each of its norms multiplied by, by name.
        routed: as `interpose.Record` has it.
    """

    stream: Float[Array, "*L B T D"]
    pattern: Float[Array, "*L B J I T T"]
    inverse_scales: dict[str, Array]
    routed: dict[str, Array]


@functools.partial(jax.jit, static_argnames=("config", "metric", "options"))
def _effects(config: DecoderConfig, params: Any, trial: Trial, metric: str, options: Cdt):
    """Relevance by head and layer, before it is gathered."""
    recorded = whole_pass(config, params, trial)

    def of_head(head, constants):
        params, trial, recorded = constants

        def of_layer(layer):
            parts = decomposed(config, params, trial, recorded, (layer, head), options.rules)
            full, irrelevant = (
                metric_values(logits, trial.targets, metric) for logits in (sum(parts), parts[1])
            )
            return jnp.mean(full - irrelevant)

        return jax.lax.map(of_layer, jnp.arange(config.n_layers))

    constants = (params, trial, recorded)
    return mesh.spread(of_head, jnp.arange(config.n_heads), constants, options.heads_at_once)


def whole_pass(
    config: DecoderConfig, params: Any, trial: Trial
) -> tuple[Whole, Float[Array, "B Q 1"]]:
    """What is kept of the plain pass: of all layers, and what the final norm multiplied by."""

    def reduce(record):
        return Whole(record.stream, record.pattern, record.inverse_scales, record.routed)

    stream, layers = interpose.record(config, params, trial.batch, reduce)
    _, final_scale = interpose.record_final(config, params, trial.batch.at_ends(stream))
    return layers, final_scale


def decomposed(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    recorded: tuple[Whole, Float[Array, "B Q 1"]],
    source: tuple[Int[Array, ""], Int[Array, ""]],
    rules: Splitting,
) -> Float[Array, "2 B *Q V"]:
    """Relevant and irrelevant logits after the last token; they sum to the plain ones.

    Args:
        config: of the model.
        params: of the model.
        trial: the prompts, and what is irrelevant of each head.
        recorded: what `whole_pass` gave.
        source: layer and head of which the rest is relevant.
        rules: see the module.
    """
    layers, final_scale = recorded
    first, head = source
    rule = Rule(rules == "published")

    def run(layer, parts, replaced=None):
        own, whole = jax.tree.map(lambda x: x[layer], (params["layers"], layers))
        return layer_run(config, rule.layer(config, own, whole, parts, replaced))

    stream = layers.stream[first].astype(jnp.float32)
    parts = jnp.stack([jnp.zeros_like(stream), stream])
    parts = run(first, parts, (head, trial.replacement[first][:, :, head]))
    parts = jax.lax.fori_loop(first + 1, config.n_layers, run, parts)
    last = jax.vmap(trial.batch.at_ends)(parts)
    last = rule.norm(config, params, "final_norm", final_scale, last)
    unembedding = {"o": params["embedding"].T if config.tied else params["unembedding"]}
    if config.unembedding_bias:
        unembedding["o_bias"] = params["unembedding_bias"]
    logits = trial.batch.of_ends(rule.linear("cbqd,dv->cbqv", last, unembedding, "o"))
    return of_parts(lambda x: softcap(x, config.logit_softcap), logits)


def of_parts(function, parts: Float[Array, "2 ..."]) -> Float[Array, "2 ..."]:
    """f(b + c) - f(c) and f(c)."""
    irrelevant = function(parts[1])
    return jnp.stack([function(parts[0] + parts[1]) - irrelevant, irrelevant])


@dataclasses.dataclass(frozen=True)
class Rule:
    """How parts, relevant and irrelevant, go through the pieces of a layer: see the module.

    Attributes:
        published: share biases and resolve signs.
    """

    published: bool

    def biased(self, parts, bias, by):
        """Parts with a bias, shared in proportion to |by|."""
        if bias is None:
            return parts
        share = jnp.abs(by[0]) / (jnp.abs(by[0]) + jnp.abs(by[1]) + TINY)
        bias = bias.reshape((1,) * (share.ndim - bias.ndim) + bias.shape)
        relevant = bias * share if self.published else jnp.zeros_like(parts[0])
        return parts + jnp.stack([relevant, bias - relevant])

    def resolved(self, parts):
        """The larger of two parts of opposite signs takes the sum."""
        if not self.published:
            return parts
        total, sizes = parts[0] + parts[1], jnp.abs(parts)
        larger = jnp.stack([sizes[0] >= sizes[1], sizes[0] < sizes[1]])
        opposite = (parts[0] * parts[1] < 0)[None]
        return jnp.where(opposite, jnp.where(larger, total[None], 0), parts)

    def linear(self, subscripts, parts, own, name):
        """The projection `name` of a module with parameters `own`."""
        product = einsum(subscripts, parts, own[name])
        return self.biased(product, own.get(f"{name}_bias"), product)

    def norm(self, config, own, name, inverse_scale, parts):
        """The norm `name` of `own`, that multiplied the whole by `inverse_scale`."""
        kind, own = config.norm_at(name), own.get(name, {})
        if kind == "none":
            return parts
        y = parts
        if NORMS[kind].centred:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * inverse_scale[None]
        if NORMS[kind].scale:
            y = y * own["scale"].reshape((1,) * (y.ndim - 1) + own["scale"].shape)
        return self.biased(y, own.get("bias"), parts)

    def layer(self, config, own, whole, parts, replaced=None):
        """The parts of the residual stream after a layer."""

        def norm(name, y):
            return self.norm(config, own, name, whole.inverse_scales.get(name), y)

        z = self.attend(config, own["attention"], whole.pattern, norm("attention_norm", parts))
        if replaced is not None:
            head, irrelevant = replaced
            mine = z[0, :, :, head] + z[1, :, :, head]
            irrelevant = jnp.broadcast_to(irrelevant, mine.shape)
            z = z.at[:, :, :, head].set(jnp.stack([mine - irrelevant, irrelevant]))
        attention = self.linear("cbthk,hkd->cbtd", z, own["attention"], "o")
        after = parts + norm("attention_post_norm", attention)
        if not config.d_mlp:
            return self.resolved(after)
        read = norm("mlp_norm", parts if config.parallel else after)
        mlp = self.resolved(self.mlp(config, own["mlp"], read, whole.routed))
        return self.resolved(after + norm("mlp_post_norm", mlp))

    def attend(self, config, own, pattern, parts):
        """What every head says, by the pattern of the whole."""
        values = self.linear("cbtd,djk->cbtjk", parts, own, "v")
        if config.qkv_clip:
            values = of_parts(lambda x: jnp.clip(x, -config.qkv_clip, config.qkv_clip), values)
        z = einsum("bjits,cbsjk->cbtjik", pattern, values)
        return z.reshape(*z.shape[:3], -1, z.shape[-1])

    def mlp(self, config, own, parts, routed):
        """An MLP, plain or gated, or a mixture of experts by the shares of the whole."""
        activation = functools.partial(activated, config)
        up = self.resolved(self.linear("cbtd,de->cbte", parts, own, "up"))
        if config.gated_mlp:
            gate = self.resolved(self.linear("cbtd,de->cbte", parts, own, "gate"))
            both = jnp.stack([gate, up], axis=1)
            hidden = of_parts(lambda x: activation(x[0]) * factor(config, x[1]), both)
        else:
            hidden = of_parts(activation, up)
        if not config.n_experts:
            return self.linear("cbte,ed->cbtd", hidden, own, "down")
        written = einsum("cbte,ed->cbtd", hidden * routed["neurons"][None], own["down"])
        if not config.mlp_bias:
            return written
        shares = routed["shares"][..., : config.n_experts]
        return self.biased(written, einsum("btx,xd->btd", shares, own["down_bias"]), written)
