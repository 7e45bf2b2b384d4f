"""Discrete sparse-autoencoder codes: the method of arXiv 2405.12522, one autoencoder a head.

Cost: one forward pass over the 2 B prompts, no backward pass through the model, and `steps` full
batches of 2 B rows for each head's autoencoder.

As published, one shared autoencoder sees raw outputs, and a head's score counts the codes that
only positives use. Ours differ in what is encoded and in what is counted: outputs are measured in
units of the residual stream; what the two prompts of a pair have in common is taken away
(`paired`); every head has its own autoencoder; and a code counts with its activation
(`evidence`), so that heads that hardly move, which the L1 penalty silences, count nothing.
"""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from circuits_jax import codes, fit, sae
from circuits_jax.activations import head_outputs, peak_outputs
from circuits_jax.circuit import Scores
from circuits_jax.errors import InputError
from circuits_jax.models.language_model import LanguageModel
from circuits_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class SaeCodes:
    """Options of the method.

    Attributes:
        position: of the tokens whose outputs are encoded: `peak` (where the prompts of a pair
            differ most, relative to the residual stream), `mean` or `last`.
        relative: measure outputs in units of the residual stream; `peak` always does.
        paired: take away the mean of the two prompts of a pair.
        standardise: divide by one number, so that components have mean square 1 over all heads.
        shared: one autoencoder for all heads, as published, in place of one a head.
        basis: `isometric` (the span of a head's examples) or `full` (R^D).
        score: `evidence`, or as published: `unique`, `unique_fraction`, or `endpoints`, in how many
            of the best `n_edges` edges a head takes part.
        softmax: over heads of a `layer`, of `all` layers, or `none`.
        n_codes, activation, k, steps, l1, learning_rate: see `sae.SaeConfig` and `sae.Settings`.

    Raises:
        InputError: a value that is not allowed.
    """

    position: Literal["peak", "mean", "last"] = "peak"
    relative: bool = True
    paired: bool = True
    standardise: bool = True
    shared: bool = False
    basis: Literal["isometric", "full"] = "isometric"
    score: Literal["evidence", "unique", "unique_fraction", "endpoints"] = "evidence"
    n_edges: int = 100
    softmax: Literal["none", "layer", "all"] = "none"
    n_codes: int = 200
    activation: Literal["relu", "topk"] = "relu"
    k: int = 4
    steps: int = 500
    l1: float = 0.02
    learning_rate: float = 1e-3

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, names = getattr(self, field.name), get_args(field.type)
            if names and value not in names:
                raise InputError(f"{field.name} is {value!r}; allowed are {', '.join(names)}")
        least = {"n_codes": 1, "steps": 1, "l1": 0.0, "learning_rate": 1e-9}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise InputError(f"{name} is {getattr(self, name)}; allowed is {value} and above")
        if self.activation == "topk" and not 1 <= self.k <= self.n_codes:
            raise InputError(f"k is {self.k}; allowed are 1 to {self.n_codes}")


PUBLISHED = SaeCodes(
    position="mean",
    relative=False,
    paired=False,
    standardise=False,
    shared=True,
    basis="full",
    score="unique",
)


def sae_codes(
    model: LanguageModel, task: Task, key: jax.Array, options: SaeCodes | None = None
) -> Scores:
    """Score heads and directed head pairs by the codes of their outputs.

    Args:
        model: a loaded model.
        task: its `learn` pairs are used, the held-out ones are not looked at.
        key: for the start of the autoencoders.
        options: see `SaeCodes`.

    Returns:
        Scores, with `details`: `codes` [2 B, G] (positives first; F where no code is active),
        `strengths` [2 B, G] (norm of what the codes say) and `losses` [steps, autoencoders].
    """
    options = options or SaeCodes()
    pairs = task.learn
    if options.position == "peak":
        outputs = peak_outputs(model, pairs)
    else:
        prompts = [*pairs.positives, *pairs.negatives]
        outputs = head_outputs(model, prompts, options.position, relative=options.relative)
    return score_outputs(key, outputs, options, model.config.head_width)


def score_outputs(
    key: jax.Array, outputs: Float[Array, "B L H D"], options: SaeCodes, head_width: int
) -> Scores:
    """Scores from head outputs of B / 2 positive prompts and then their B / 2 negative ones.

    `head_width` is K, which bounds the rank of a head's outputs.
    """
    b, *heads, d_model = outputs.shape
    x = inputs(outputs.reshape(b, -1, d_model), options, head_width)
    config = sae.SaeConfig(options.n_codes, options.activation, options.k, options.steps)
    settings = sae.Settings(options.l1, options.learning_rate)
    params, losses = fit.fit(key, x, config, settings, d_model=d_model)
    h = fit.activations(params, x, config)[0, 0]
    code = sae.code(h).reshape(-1, b).T
    strength = said(params, h).reshape(-1, b).T
    head_scores, edge_scores = _score(code, strength, tuple(heads), options)
    details = {"codes": code, "strengths": strength, "losses": losses[0, 0].T}
    return Scores(head_scores, edge_scores, details)


@functools.partial(jax.jit, static_argnames=("options", "head_width"))
def inputs(
    outputs: Float[Array, "B G D"], options: SaeCodes, head_width: int
) -> Float[Array, "_ N R"]:
    """What the autoencoders see: [G, B, R], or [1, G B, D] for a shared one."""
    x = outputs
    if options.paired:
        positive, negative = jnp.split(x, 2)
        middle = (positive + negative) / 2
        x = jnp.concatenate([positive - middle, negative - middle])
    if options.standardise:
        x = x * jax.lax.rsqrt(jnp.maximum(jnp.mean(x * x), 1e-30))
    x = x.swapaxes(0, 1)
    if options.shared:
        return x.reshape(1, -1, x.shape[-1])
    if options.basis == "full":
        return x
    n = x.shape[1] // 2 if options.paired else x.shape[1]  # the two of a pair are opposite
    rank = min(n, head_width, x.shape[2])
    return jax.vmap(lambda x: sae.isometric_basis(x, rank))(x)


def said(params: sae.SaeParams, h: Float[Array, "G N F"]) -> Float[Array, "G N"]:
    """Norm of what the codes of a prompt say of the head's output: |h W_d|; 0 if none is active."""
    return jnp.linalg.norm(jnp.einsum("gnf,gfr->gnr", h, params.decoder[0, 0]), axis=-1)


@functools.partial(jax.jit, static_argnames=("heads", "options"))
def _score(
    code: Int[Array, "B G"],
    strength: Float[Array, "B G"],
    heads: tuple[int, int],
    options: SaeCodes,
) -> tuple[Float[Array, "L H"], Float[Array, "G G"]]:
    """Scores of heads and of directed edges by the definition that the options name."""
    positive, negative = jnp.split(code, 2)
    weight = jnp.split(strength, 2)[0]
    if options.score == "evidence":
        pairs = codes.evidence_pairs(positive, negative, weight)
    else:
        pairs = codes.unique_pairs(positive, negative)
    edges = codes.directed(pairs, heads)
    head_scores = {
        "evidence": lambda: codes.evidence(positive, negative, weight),
        "unique": lambda: codes.unique(positive, negative),
        "unique_fraction": lambda: codes.unique_fraction(positive, negative),
        "endpoints": lambda: codes.endpoint_counts(edges, options.n_edges),
    }[options.score]()
    head_scores = head_scores.reshape(heads)
    if options.softmax != "none":
        axis = {"layer": 1, "all": None}[options.softmax]
        head_scores = jax.nn.softmax(head_scores, axis=axis)
    return head_scores, edges
