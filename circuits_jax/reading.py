r"""What later layers read of a head, on to the prediction: one pass over kept activations.

The two prompts of a pair differ by d z_g(t) in what head g says at token t, and in the prediction
by p+ - p-, the difference of the two next-token distributions after the last token. How much of the
one is due to the other is read off what the forward pass computed for the positive prompt, from
the last layer to the first, with no label and no gradient of the model. A weight w(t) in R^D says
how much of the residual stream at token t is read after a layer:

    start      w = W_U (p+ - p-) at the last token, through the final norm, its scale held still
    head       what is read of z:  R(t) = W_O w(t);  flow_g(t) = < d z_g(t), R(t) >
    values     a head hands on what it attends to: token s gets  W_V sum_t A(t, s) R(t)
    patterns   and where it attends: with c(t, s) = < R(t), v(s) > and
               a(t, s) = M(t, s) (c(t, s) - sum_s M(t, s) c(t, s) / sum_s M(t, s)), queries get
               W_Q sum_s a k(s) and keys W_K sum_t a q(t), turned back by their rotary angles
    norm       a multiplication by what it multiplied by, held still
    MLP        the neurons that move most are read one by one, by the slope d act(u) / d u, and each
               factor of a gated product gets half (arXiv 2508.21258); the rest by their secant,
               which knows only what went in and came out: d x < d y, w > / |d x|^2

d is positive minus negative, aligned at the last token; tokens that only one prompt has are left
out. Functions of one number or one row are read by their slope between the two prompts, so that a
step that was taken, or an all but hard pattern that turned, counts in full. For the softmax that is
exact with M the logarithmic mean of A and the other pattern, (A - A') / (log A - log A'); M is the
mean of three, A' by the negative prompt's queries, by its keys, and by both. Products are read at
the positive prompt, which patching starts from. In a model whose norms, patterns and activations
are linear or the same in both prompts, flow summed over tokens is the exact effect of patching the
head, measured along p+ - p-.

Cost: the attention projections of the positive prompts and their patterns, three times, once more,
and a few neurons of each MLP; no backward pass. The memory is that of what is kept of the positive
prompts, [L B T E] above all. Not for models whose attention scores or logits are capped far from
linearly: caps are read as if they were not there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from circuits_jax import interpose
from circuits_jax.models.config import DecoderConfig
from circuits_jax.models.decoder import Attention, LayerData, TokenBatch, layer_data, rotate

TINY = 1e-9
NEVER = 1e-30  # a pattern's share that counts as none


@struct.dataclass
class Moved:
    """Of one layer and B pairs: what differs in a pair, and what the positive prompts computed.

    Attributes:
        z: difference of what each head says; 0 where only one prompt has a token.
        relative: the same, each prompt in units of its residual stream.
        q, k: difference of queries and of keys.
        mlp_stream, mlp: difference of what the MLP's norm is given, and of what the MLP adds.
        most: which neurons of the MLP say what differs most; M of them.
        neurons: difference of what these say.
        slopes: of their activations, between the two prompts.
        positive: the record of the positive prompts.
    """

    z: Float[Array, "*L B T H K"]
    relative: Float[Array, "*L B T H K"]
    q: Float[Array, "*L B T H K"]
    k: Float[Array, "*L B T J K"]
    mlp_stream: Float[Array, "*L B T D"]
    mlp: Float[Array, "*L B T D"]
    most: Int[Array, "*L M"]
    neurons: Float[Array, "*L B T M"]
    slopes: Float[Array, "*L B T M"]
    positive: interpose.Record


@struct.dataclass
class Flow:
    """Of one layer, or of all on a leading axis: how heads moved, and how much of it is read.

    Attributes:
        moved: the movement, relative to the residual stream, as z.
        distance: its norm as an output, |moved W_O|.
        read: the flow, in units of p+ - p-.
    """

    moved: Float[Array, "*L B T H K"]
    distance: Float[Array, "*L B T H"]
    read: Float[Array, "*L B T H"]


def flows(
    config: DecoderConfig,
    params: Any,
    positives: TokenBatch,
    negatives: TokenBatch,
    mlp_neurons: int,
) -> Flow:
    """How every head moves at every token, and how much of that is read.

    Args:
        config: the decoder's settings.
        params: its parameters.
        positives: B prompts, padded on the left.
        negatives: their negatives, padded to the same length.
        mlp_neurons: how many neurons of an MLP are read one by one: those that move most.

    Returns:
        [L B T H] arrays, 0 where only one prompt of the pair has a token. All 0 where the two
        prompts are the same.
    """
    shared = positives.mask & negatives.mask

    def reduce(record):
        scale = jnp.sqrt(jnp.mean(record.stream.astype(jnp.float32) ** 2, axis=-1))
        relative = record.z.astype(jnp.float32) / jnp.maximum(scale, 1e-6)[..., None, None]
        says = record.neurons["active"] * record.neurons.get("up", 1) if config.d_mlp else scale
        says = _difference(says.reshape(*scale.shape, -1), shared)
        size = jnp.sum(says * says, axis=(0, 1))
        most = jax.lax.top_k(size, min(mlp_neurons, len(size)))[1]
        record = record.replace(neurons={n: x[..., most] for n, x in record.neurons.items()})
        return Moved(
            z=_difference(record.z, shared),
            relative=_difference(relative, shared),
            q=_difference(record.q, shared),
            k=_difference(record.k, shared),
            mlp_stream=_difference(record.mlp_stream, shared),
            mlp=_difference(record.mlp, shared),
            most=most,
            neurons=says[..., most],
            slopes=activation_slopes(**record.neurons) if config.d_mlp else says[..., most],
            positive=jax.tree.map(lambda x: jnp.split(x, 2)[0].astype(jnp.float32), record),
        )

    both = jax.tree.map(lambda *sides: jnp.concatenate(sides), positives, negatives)
    logits, final_scale, moved = interpose.record(config, params, both, reduce)
    weight = (
        jnp.zeros(moved.positive.stream.shape[1:])
        .at[:, -1]
        .set(prediction_weight(config, params, logits, jnp.split(final_scale, 2)[0]))
    )

    def step(weight, layer):
        own, data, moved = layer
        own = jax.tree.map(lambda x: x.astype(jnp.float32), own)
        return read_layer(config, own, data, positives, moved, weight)

    layers = params["layers"], layer_data(config), moved
    return jax.lax.scan(step, weight, layers, reverse=True)[1]


def _difference(x: Float[Array, "B2 T ..."], shared: Bool[Array, "B T"]) -> Float[Array, "B T ..."]:
    """Positive minus negative, where both prompts of a pair have a token."""
    positive, negative = jnp.split(x.astype(jnp.float32), 2)
    return jnp.where(shared.reshape(*shared.shape, *(1,) * (x.ndim - 2)), positive - negative, 0)


def activation_slopes(
    given: Float[Array, "B2 T E"], active: Float[Array, "B2 T E"], **_: Any
) -> Float[Array, "B T E"]:
    """How much more neurons are active for being given more, from the negative to the positive.

    Where both are given the same: what they are active for all that they are given.
    """
    given, active = (x.astype(jnp.float32) for x in (given, active))
    (u, other), (y, other_y) = jnp.split(given, 2), jnp.split(active, 2)
    same = jnp.abs(u - other) < 1e-4 * (jnp.abs(u) + jnp.abs(other)) + 1e-6
    tiny = jnp.abs(u) < 1e-6
    whole = jnp.where(tiny, 0.5, y / jnp.where(tiny, 1, u))
    return jnp.where(same, whole, (y - other_y) / jnp.where(same, 1, u - other))


def logarithmic_mean(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """(a - b) / (log a - log b), between the geometric and the arithmetic mean; a where a = b."""
    a, b = jnp.maximum(a, NEVER), jnp.maximum(b, NEVER)
    logs = jnp.log(a) - jnp.log(b)
    same = jnp.abs(logs) < 1e-3
    return jnp.where(same, (a + b) / 2, (a - b) / jnp.where(same, 1, logs))


def prediction_weight(
    config: DecoderConfig,
    params: Any,
    logits: Float[Array, "B2 V"],
    inverse_scale: Float[Array, "B 1"],
) -> Float[Array, "B D"]:
    """How the last token's residual stream is read by the difference of the predictions."""
    positive, negative = jnp.split(jax.nn.softmax(logits, axis=-1), 2)
    unembedding = params["embedding"] if config.tied else params["unembedding"].T
    weight = (positive - negative) @ unembedding.astype(jnp.float32)
    return through_norm(params, "final_norm", {"final_norm": inverse_scale}, weight)


def through_norm(own: Any, name: str, inverse_scales: dict[str, Array], weight: Array) -> Array:
    """How a norm's input is read, given how its output is; what it multiplies by is held still.

    `own` are parameters of the module that holds the norm; a norm without any leaves things alone.
    """
    if name not in own:
        return weight
    scale = own[name]["scale"].astype(jnp.float32)
    weight = weight * scale.reshape(*(1,) * (weight.ndim - 1), -1) * inverse_scales[name]
    if "bias" in own[name]:  # a layer norm takes the mean away
        weight = weight - jnp.mean(weight, axis=-1, keepdims=True)
    return weight


def read_layer(
    config: DecoderConfig,
    own: Any,
    data: LayerData,
    batch: TokenBatch,
    moved: Moved,
    weight: Float[Array, "B T D"],
) -> tuple[Float[Array, "B T D"], Flow]:
    """How the stream before a layer is read, given how it is after; and the flow of its heads."""
    scales = moved.positive.inverse_scales
    mlp = read_mlp(own, moved, weight) if config.d_mlp else 0.0
    after_attention = weight if config.parallel else weight + mlp
    written = through_norm(own, "attention_post_norm", scales, after_attention)
    w_o = own["attention"]["o"]
    heads = jnp.einsum("btd,hkd->bthk", written, w_o)
    between = patterns_between(config, own["attention"], data, batch, moved)
    reads = read_attention(config, own["attention"], data, batch, moved.positive, between, heads)
    reads = through_norm(own, "attention_norm", scales, reads)
    gram = jnp.einsum("hkd,hmd->hkm", w_o, w_o)  # |z W_O|^2 = z (W_O W_O^T) z^T
    square = jnp.einsum("bthk,hkm,bthm->bth", moved.relative, gram, moved.relative)
    flow = Flow(
        moved=moved.relative,
        distance=jnp.sqrt(jnp.maximum(square, 0)),
        read=jnp.sum(moved.z * heads, axis=-1),
    )
    return weight + mlp + reads, flow


def patterns_between(
    config: DecoderConfig, own: Any, data: LayerData, batch: TokenBatch, moved: Moved
) -> Float[Array, "B J I T T"]:
    """M of the module: the positive prompts' patterns, on the way to the negative ones'."""
    q, k = moved.positive.q, moved.positive.k

    def on_the_way(by_queries, by_keys):
        others = q - by_queries * moved.q, k - by_keys * moved.k
        pattern = Attention(config).apply({"params": own}, *others, data, batch, method="pattern")
        return logarithmic_mean(moved.positive.pattern, pattern)

    return jnp.mean(jax.vmap(on_the_way)(jnp.array([1, 0, 1]), jnp.array([0, 1, 1])), axis=0)


def read_attention(
    config: DecoderConfig,
    own: Any,
    data: LayerData,
    batch: TokenBatch,
    record: interpose.Record,
    between: Float[Array, "B J I T T"],
    heads: Float[Array, "B T H K"],
) -> Float[Array, "B T D"]:
    """How attention reads its input, as values and through its patterns, given what is read of z.

    For the values alone this is exact: with patterns held still z is linear in the input. With
    the pattern itself for `between`, it is the transpose of the derivative.
    """
    b, t, _, width = heads.shape
    grouped = (b, t, config.n_kv_heads, -1, width)
    heads = heads.reshape(grouped)
    values = jnp.einsum("bjits,btjik->bsjk", record.pattern, heads)
    credit = jnp.einsum("btjik,bsjk->bjits", heads, record.v)
    mean = jnp.sum(between * credit, axis=-1, keepdims=True)
    mean = mean / jnp.maximum(jnp.sum(between, axis=-1, keepdims=True), NEVER)
    scores = between * (credit - mean) * config.attention_scale
    queries = jnp.einsum("bjits,bsjk->btjik", scores, record.k).reshape(b, t, -1, width)
    keys = jnp.einsum("bjits,btjik->bsjk", scores, record.q.reshape(grouped))
    if config.rotary_width:
        turn = -batch.positions, data.frequencies, data.rotary_scale
        turned = rotate(jnp.concatenate([queries, keys], axis=2), *turn)
        queries, keys = turned[:, :, : config.n_heads], turned[:, :, config.n_heads :]
    queries = through_norm(own, "q_norm", record.inverse_scales, queries)
    keys = through_norm(own, "k_norm", record.inverse_scales, keys)
    read = jnp.concatenate([queries, keys, values], axis=2)
    weights = jnp.concatenate([own[name] for name in "qkv"], axis=1)
    return jnp.einsum("bthk,dhk->btd", read, weights)


def read_mlp(own: Any, moved: Moved, weight: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """How the MLP reads the stream: some of its neurons one by one, the rest by their secant.

    <d x, what is read>, were nothing linearised, is < d mlp, weight >; for the secant it is exact.
    """
    scales = moved.positive.inverse_scales
    written = through_norm(own, "mlp_post_norm", scales, weight)
    most, neurons = moved.most, moved.positive.neurons
    columns = {name: own["mlp"][name][:, most] for name in ("gate", "up") if name in own["mlp"]}
    hidden = jnp.einsum("btd,ed->bte", written, own["mlp"]["down"][most])
    read = read_neurons(columns, neurons, moved.slopes, hidden)
    read = through_norm(own, "mlp_norm", scales, read)
    total = jnp.sum(moved.mlp * weight, axis=-1)
    rest = total - jnp.sum(moved.neurons * hidden, axis=-1)
    square = jnp.sum(moved.mlp_stream**2, axis=-1)
    return read + moved.mlp_stream * (rest / jnp.maximum(square, TINY))[..., None]


def read_neurons(
    columns: dict[str, Float[Array, "D E"]],
    neurons: dict[str, Float[Array, "B T E"]],
    slopes: Float[Array, "B T E"],
    hidden: Float[Array, "B T E"],
) -> Float[Array, "B T D"]:
    """How neurons read their input x, given how they are read; `columns` are their weights.

    Not gated < d x, what is read > = < d what the neurons say, hidden >: nothing gets lost.
    """
    if "gate" not in columns:
        return (hidden * slopes) @ columns["up"].T
    by_gate = (hidden * neurons["up"] * slopes) @ columns["gate"].T
    return (by_gate + (hidden * neurons["active"]) @ columns["up"].T) / 2
