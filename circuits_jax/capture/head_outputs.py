"""Step 2 of the method: what every attention head writes, for every prompt (arXiv 2405.12522).

Head g of a prompt has the output `z_g W_O_g` in R^D. Pooling over tokens commutes with the
multiplication, so z is pooled inside the forward pass, to [B L H K], and multiplied once.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture import slope_attribution
from circuits_jax.capture.forked import ForkedBatch, fork
from circuits_jax.decoder.batch import TokenBatch, stacked
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LENGTH_MULTIPLE, LanguageModel, not_finite, split
from circuits_jax.runs import devices, mesh
from circuits_jax.runs.checks import check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import PromptPairs, Targets, targets

Position = Literal["last", "mean", "all"]
POSITIONS = ("last", "mean", "all")


def head_outputs(
    model: LanguageModel,
    prompts: Sequence[str],
    position: Position = "mean",
    *,
    relative: bool = False,
    batch_size: int = 32,
) -> Float[Array, "B L H D"] | Float[Array, "B T L H D"]:
    """The output z W_O of every attention head, without the bias that the heads share.

    Args:
        model: a loaded model.
        prompts: B strings.
        position: `last` token, `mean` over the prompt's tokens, or `all` tokens ([B T L H D], zero
            at padding, which is on the right).
        relative: measure outputs, token by token, in units of the residual stream: its root mean
            square before the layer.
        batch_size: prompts in one forward pass.

    Returns:
        [B L H D], float32 (a [B T L H D] array for `all`). Summed over H, and with the bias added,
        a layer's outputs are what its attention writes to the residual stream.

    Raises:
        InputError: an unknown position, unusable prompts, or an output that is not finite.
    """
    check_allowed("position", position, POSITIONS)
    batch = model.tokenize(prompts)
    return _outputs(model, prompts, batch, batch.mask, position, relative, batch_size)


def paired_outputs(
    model: LanguageModel, pairs: PromptPairs, position: Literal["last", "mean"] = "mean"
) -> Float[Array, "B L H D"]:
    """`head_outputs` of the positives and then of the negatives of pairs.

    The mean is over the tokens that have a partner in the other prompt (`lm/alignment.py`), so
    that what a pair has in common counts as much in both, whatever the prompts' lengths.
    """
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives)
    both = stacked(sides)
    partnered = jnp.tile(sides[0].mask & sides[1].mask, (2, 1))
    prompts = [*pairs.positives, *pairs.negatives]
    return _outputs(model, prompts, both, partnered, position)


def _outputs(
    model: LanguageModel,
    prompts: Sequence[str],
    batch: TokenBatch,
    counted: Bool[Array, "B T"],
    position: Position,
    relative: bool = False,
    batch_size: int = 32,
) -> Float[Array, "B L H D"] | Float[Array, "B T L H D"]:
    """Outputs of checked prompts, pooled over the tokens that are `counted`."""
    weights = token_weights(dataclasses.replace(batch, mask=counted), position)
    rows = [
        _project(*_pooled(model.config, model.params, *part, position == "all", relative))
        for part in split((batch, weights), batch_size)
    ]
    outputs = jnp.concatenate(rows)[: len(prompts)]
    check_finite(outputs, prompts, model.params)
    return outputs


def read_outputs(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    read_weight: float = 0.65,
    batch_size: int = 32,
) -> Float[Array, "B L H D"]:
    """How each head's output moves from the negative to the positive, where that matters most.

    At every token a movement has a length, relative to the residual stream, and a flow: how much of
    it is read, on to the prediction (`slope_attribution.py`), as a share of the pair's flow over
    all heads and tokens. What matters is their weighted geometric mean,

        flow^a distance^(1 - a),   a = `read_weight`;

    a head's peak is the token at which it is largest. Tokens that only one prompt of the pair has
    are not looked at (`lm/alignment.py`).

    Args:
        model: a loaded model.
        pairs: B pairs.
        read_weight: a in [0, 1]; 0 looks at the movement alone, 1 at the flow alone.
        batch_size: prompts in one forward pass, at most; long ones are fewer (`mesh.fitting`).

    Returns:
        For each pair the movement at the peak, with the length of what matters there; 0 where the
        two prompts are the same. Float32. Not yet computed, and so not checked, on return.
    """
    batches = _in_parts(model, forked(model, pairs), batch_size)
    rows = [_at_peak(model.config, model.params, batch, read_weight) for batch in batches]
    return _joined(rows, len(pairs))


def read_spans(
    model: LanguageModel,
    pairs: PromptPairs,
    inside: Bool[Array | np.ndarray, "S B T"],
    *,
    read_weight: float = 0.65,
    batch_size: int = 32,
) -> Float[Array, "S B L H D"]:
    """`read_outputs` at the peak inside of each of S spans; 0 where a prompt has no token of it.

    `inside` is of the columns of `tokenize_pairs` with padding on the left. Over spans, the largest
    is what `read_outputs` gives.
    """
    both = forked(model, pairs), jnp.swapaxes(inside, 0, 1)
    rows = [
        _at_spans(model.config, model.params, *part, read_weight)
        for part in _in_parts(model, both, batch_size)
    ]
    return jnp.concatenate(rows, axis=1)[:, : len(pairs)]


@struct.dataclass
class GraphReading:
    """How all that writes moves where that matters most, and what passes between nodes.

    Attributes:
        heads: as `read_outputs` gives it.
        others: the same of the embedding and of every MLP, as of 1 + L layers of one head. What is
            read of them is a share of the flow over all heads too.
        passes: see `slope_attribution.GraphFlow`; mean over pairs it is to first order what cutting
            each edge takes from the prediction, along p+ - p-, or from a metric.
    """

    heads: Float[Array, "B L H D"]
    others: Float[Array, "B L2 1 D"]
    passes: Float[Array, "B writers readers"]


def read_graph(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    read_weight: float = 0.65,
    batch_size: int = 32,
    metric: str = "",
) -> GraphReading:
    """`read_outputs`, of MLPs and the embedding too, and what passes through every edge.

    What passes is on the way to the prediction, or to a `metric` of the task. Where an answer has
    several tokens it is to the prediction, which is of the first. Not yet computed, and so not
    checked, on return.
    """
    goal = targets(pairs) if metric else None
    if goal is not None and goal.answer_at is not None:
        goal, metric = None, ""
    rows = [
        _graph_at_peak(model.config, model.params, *part, read_weight, metric)
        for part in _in_parts(model, (forked(model, pairs), goal), batch_size)
    ]
    return _joined(rows, len(pairs))


def _in_parts(model: LanguageModel, rows: Any, batch_size: int) -> Iterator[Any]:
    """Pairs, and what goes with each, in parts of `batch_size` prompts, fewer if they are long.

    What is kept of all layers is the most of the memory, and of that the patterns.
    """
    batch = jax.tree.leaves(rows, is_leaf=lambda x: isinstance(x, ForkedBatch))[0]
    fit = model.config.fitting(batch_size, model.config.n_layers, batch.length)
    fit = model.config.fitting(fit, 1, batch.tokens.shape[1])  # of one layer, read in one part
    at_once = devices.mesh().shape[devices.DATA] * fit
    return split(rows, min(max(batch_size // 2, 1), at_once))


def _joined(rows: list[Any], n: int) -> Any:
    """The first `n` rows of all batches; one batch as it is, for which there is no program."""
    if len(rows) == 1:
        return rows[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:n], *rows)


def forked(model: LanguageModel, pairs: PromptPairs) -> ForkedBatch:
    """B rows, a positive and the ending of its negative in each."""
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    both, whole = stacked(sides), sides[0].tokens.shape[1]
    context = model.config.rotary_context  # beyond it a beginning depends on its prompt's length
    alike = model.config.causal and not (context and (both.lengths > context).any())
    return fork(both, LENGTH_MULTIPLE if alike else whole)


@functools.partial(jax.jit, static_argnames="config")
def _at_peak(
    config: DecoderConfig,
    params: Any,
    batch: ForkedBatch,
    read_weight: float | Float[Array, ""],
) -> Float[Array, "B L H D"]:
    """`read_outputs` of one batch, whose pairs are spread over the devices."""

    def read(batch, given):
        params, read_weight = given
        flow = slope_attribution.flows(config, params, batch)
        return _project(_moved(flow, _total(flow), read_weight), params["layers"]["attention"]["o"])

    return mesh.joined(mesh.shared_out(read, batch, (params, read_weight)), len(batch.tokens))


@functools.partial(jax.jit, static_argnames="config")
def _at_spans(
    config: DecoderConfig,
    params: Any,
    batch: ForkedBatch,
    inside: Bool[Array, "B S T"],
    read_weight: float | Float[Array, ""],
) -> Float[Array, "S B L H D"]:
    """`read_spans` of one batch, whose pairs are spread over the devices."""

    def read(rows, given):
        (batch, inside), (params, read_weight) = rows, given
        flow = slope_attribution.flows(config, params, batch)
        endings = jnp.swapaxes(inside[..., -batch.n_ending :], 0, 1)[..., None]
        moved = jax.vmap(lambda here: _moved(flow, _total(flow), read_weight, here))(endings)
        found = jax.vmap(_project, (0, None))(moved, params["layers"]["attention"]["o"])
        return jnp.swapaxes(found, 0, 1)

    rows = mesh.shared_out(read, (batch, inside), (params, read_weight))
    return jnp.swapaxes(mesh.joined(rows, len(inside)), 0, 1)


@functools.partial(jax.jit, static_argnames=("config", "metric"))
def _graph_at_peak(
    config: DecoderConfig,
    params: Any,
    batch: ForkedBatch,
    goal: Targets | None,
    read_weight: float | Float[Array, ""],
    metric: str = "",
) -> GraphReading:
    """`read_graph` of one batch, whose pairs are spread over the devices."""

    def read(rows, given):
        (batch, goal), (params, read_weight) = rows, given
        flow = slope_attribution.graph_flows(config, params, batch, goal, metric)
        heads, others = (
            _moved(one, _total(flow.heads), read_weight) for one in (flow.heads, flow.others)
        )
        heads = _project(heads, params["layers"]["attention"]["o"])
        return GraphReading(heads, jnp.moveaxis(others, 0, 1), flow.passes)

    rows = mesh.shared_out(read, (batch, goal), (params, read_weight))
    return mesh.joined(rows, len(batch.tokens))


def _total(flow: slope_attribution.Flow) -> Float[Array, "1 B 1 1"]:
    """What flows in each pair, over all heads and tokens."""
    return jnp.maximum(jnp.sum(jnp.abs(flow.read), axis=(0, 2, 3), keepdims=True), 1e-30)


def _moved(
    flow: slope_attribution.Flow,
    total: Float[Array, "1 B 1 1"],
    read_weight: float | Float[Array, ""],
    inside: Bool[Array, "B Q 1"] | bool = True,
) -> Float[Array, "L B H K"]:
    """The movement at the token where it matters most, with the length of what matters there.

    Of the tokens that are `inside`.
    """
    share = jnp.abs(flow.read) / total
    matters = jnp.where(inside, share**read_weight * flow.distance ** (1 - read_weight), 0)
    peak = jnp.argmax(matters, axis=2, keepdims=True)

    def at_peak(x):
        return jnp.take_along_axis(x, peak, axis=2)[:, :, 0]

    length = at_peak(matters) / jnp.maximum(at_peak(flow.distance), 1e-30)
    return jnp.take_along_axis(flow.moved, peak[..., None], axis=2)[:, :, 0] * length[..., None]


def token_weights(batch: TokenBatch, position: Position) -> Float[Array, "B T"]:
    """How much each token counts; sums to 1 over tokens, or is 1 at each real token for `all`."""
    if position == "last":
        return jax.nn.one_hot(batch.last, batch.mask.shape[1])
    weights = batch.mask.astype(jnp.float32)
    return weights if position == "all" else weights / jnp.sum(weights, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("config", "every", "relative"))
def _pooled(
    config: DecoderConfig,
    params: Any,
    batch: TokenBatch,
    weights: Float[Array, "B T"],
    every: bool,
    relative: bool,
) -> tuple[Float[Array, "L B ... H K"], Float[Array, "L H K D"]]:
    """Weighted z, of `every` token or summed over them; and W_O, which turns it into outputs."""
    subscripts = "bthk,bt->bthk" if every else "bthk,bt->bhk"

    def pool(heads):
        weight = weights / jnp.maximum(heads.scale, 1e-6) if relative else weights
        return einsum(subscripts, heads.z.astype(jnp.float32), weight)

    _, z = interpose.capture(config, params, batch, pool)
    return z, params["layers"]["attention"]["o"]


@jax.jit
def _project(z: Array, w_o: Float[Array, "L H K D"]) -> Float[Array, "B ... L H D"]:
    return einsum("l...hk,lhkd->...lhd", z, w_o.astype(jnp.float32))


def check_finite(
    outputs: Float[Array | np.ndarray, "B ... L H D"], prompts: Sequence[str], params: Any
) -> None:
    """Raise InputError, naming prompt and head, where an output is NaN or infinite."""
    finite = np.isfinite(outputs).all(axis=-1)
    if not finite.all():
        index = np.argwhere(~finite)[0]
        part = f"the output of layer {index[-2]} head {index[-1]}"
        raise InputError(not_finite(part, int(index[0]), prompts[index[0]], params))
