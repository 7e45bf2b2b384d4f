"""How tables say where a family keeps its weights: Hugging Face's tensor names and layouts.

A `Row` says: our parameter `path` is the tensor `name`, whose axes are `stored`. Axes are letters,
written together where the file fuses them: `HK D` is a matrix [H*K, D]. What stands side by side on
one axis is added up in brackets, of which `part` picks one: `(HK+JK+JK) D` are queries, keys and
values below one another, `J(IK+K+K) D` the same for each key-value head. A digit is an axis of so
many, of which `part` picks one: `X D E2` is gate and up of all experts, column by column. Sizes
follow from the config, so a wrong shape is caught, never reshaped. Per-layer tensors have `{layer}`
in their name and are stacked to [L, ...]; those of single experts or heads have `{each}`.

    D  width of the residual stream    H  heads in a layer     J  key-value heads   K  head width
    E  width of the MLP, or an expert  X  experts              S  width of the expert all use
    I  query heads of each J           V  vocabulary           P  rows of the position table
"""

import dataclasses
import re
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from circuits_jax.decoder.config import DecoderConfig

# Axes of our parameters, the same for every family, where there are several; see `decoder.py`.
AXES = {
    "embedding": "VD",
    "position_embedding": "PD",
    "unembedding": "DV",
    "q": "DHK",
    "k": "DJK",
    "v": "DJK",
    "o": "HKD",
    "q_bias": "HK",
    "k_bias": "JK",
    "v_bias": "JK",
    "up": "DE",
    "gate": "DE",
    "down": "ED",
    "router": "DX",
}

# Stored beside a decoder that takes images as well as text, and not read for text alone.
OF_IMAGES = re.compile(r"^(vision_tower|multi_modal_projector)\.")

# Longest first: what may stand before the names of the decoder's own tensors.
PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.decoder.",
    "model.",
    "decoder.",
    "transformer.",
    "gpt_neox.",
)

RENAMED = {"embed_out.weight": "lm_head.weight"}  # GPT-NeoX's, in its files and in transformers 5


@dataclasses.dataclass(frozen=True)
class Row:
    """Our parameter `path` is Hugging Face's `name`, stored with axes `stored`.

    `part` picks one of those that an axis fuses. `each` is the axis, X, H or J, of which the tensor
    `name` holds one, numbered `{each}`. Of several rows with one path (and not of the expert that
    all use) the first is taken that the checkpoint has.
    """

    path: str
    name: str
    stored: str
    part: int = 0
    each: str = ""

    @property
    def per_layer(self) -> bool:
        """Whether the tensor exists once a layer."""
        return "{layer}" in self.name

    @property
    def shared(self) -> bool:
        """Whether it is of the expert that all tokens use."""
        return "S" in self.stored

    def names(self, config: DecoderConfig) -> list[tuple[int, int, str]]:
        """(layer, number, name) of its tensors; 0 where there is one for all."""
        layers = range(config.n_layers if self.per_layer else 1)
        numbers = range(axis_sizes(config)[self.each] if self.each else 1)
        return [(n, i, self.name.format(layer=n, each=i)) for n in layers for i in numbers]


def canonical_name(name: str) -> str:
    """The name of a tensor inside the decoder, whichever model class and version saved it.

    torch.compile and data-parallel training put words of their own before it.
    """
    name = re.sub(r"^((_orig_mod|module)\.)+", "", name).replace("._orig_mod.", ".")
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    name = name[len(prefix) :]
    return RENAMED.get(name, name)


def axis_sizes(config: DecoderConfig) -> dict[str, int]:
    """Size of each axis letter of the tables."""
    return {
        "D": config.d_model,
        "H": config.n_heads,
        "J": config.n_kv_heads,
        "I": config.n_heads // config.n_kv_heads,
        "K": config.head_width,
        "E": config.d_expert,
        "X": config.n_experts,
        "S": config.d_shared,
        "V": config.vocab_size,
        "P": config.n_positions + config.position_offset,
        **{str(n): n for n in range(1, 4)},
    }


def _size(letters: str, sizes: dict[str, int]) -> int:
    return int(np.prod([sizes[a] for a in letters]))


def stored_shape(row: Row, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape that a tensor of the file must have."""
    shape = []
    for axis in row.stored.split():
        before, _, group = axis.partition("(")
        widths = [_size(part, sizes) for part in group.rstrip(")").split("+")] if group else [1]
        shape.append(_size(before, sizes) * sum(widths))
    return tuple(shape)


def to_ours(tensor: np.ndarray, row: Row, sizes: dict[str, int]) -> np.ndarray:
    """One tensor of the file, with our axes: splits fused axes, picks the part, permutes."""
    letters = ""
    for axis in row.stored.split():
        before, _, group = axis.partition("(")
        at = len(letters + before)
        rest = tensor.shape[len(letters) + 1 :]
        done = tensor.shape[: len(letters)]
        letters += before
        tensor = tensor.reshape(*done, *(sizes[a] for a in before), *[-1] * bool(group), *rest)
        if group:
            parts = group.rstrip(")").split("+")
            ends = np.cumsum([_size(part, sizes) for part in parts])
            tensor = np.split(tensor, ends[:-1], axis=at)[row.part]
            tensor = tensor.reshape(*tensor.shape[:at], *(sizes[a] for a in parts[row.part]), *rest)
            letters += parts[row.part]
    for digit in [a for a in letters if a.isdigit()]:
        tensor = np.take(tensor, row.part, axis=letters.index(digit))
        letters = letters.replace(digit, "")
    return tensor.transpose([letters.index(a) for a in our_axes(row, letters)])


def our_axes(row: Row, letters: str) -> str:
    """Axis letters of what a row says of our parameter, of which the file has all `letters`."""
    ours = AXES.get(row.path.rpartition("/")[2], letters)
    ours = ours.replace("H", "JI") if "I" in letters else ours
    ours = ours.replace("E", "S") if row.shared else ours
    return ours.replace("E", "XE") if "X" in letters and "X" not in ours else ours


def place_in(out: np.ndarray, row: Row, number: int, config: DecoderConfig) -> np.ndarray:
    """The part of a parameter of one layer that a tensor of a row fills, a view of it."""
    axes = AXES.get(row.path.rpartition("/")[2], "")
    at = axes.find("E") if axes else (0 if row.path.endswith(("up_bias", "gate_bias")) else -1)
    if config.n_experts and row.path.startswith("layers/mlp/") and at >= 0:
        experts, one = config.n_experts, config.d_expert
        span = slice(experts * one, None) if row.shared else slice(0, experts * one)
        out = out[(slice(None),) * at + (span,)]
        if row.shared:
            return out
        out = out.reshape(*out.shape[:at], experts, one, *out.shape[at + 1 :])
        return np.moveaxis(out, at, 0)[number] if row.each else out
    return out[number] if row.each else out


def buffer_check(canonical: str) -> Callable[[np.ndarray, str, DecoderConfig], bool] | None:
    """What tells whether a tensor that some versions store is the constant that we compute."""
    return next((check for name, check in _BUFFERS.items() if re.search(name, canonical)), None)


def _is_rotary(tensor: np.ndarray, canonical: str, config: DecoderConfig) -> bool:
    """The radians per token of the layer's heads, of any layer's where the name has none."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return False
    layer = re.search(r"layers\.(\d+)\.", canonical)
    kinds = config.layer_kinds
    kinds = kinds[int(layer[1]) :][:1] if layer else kinds
    eps = float(jnp.finfo(tensor.dtype).eps)
    wanted = [np.array(config.rotary_frequencies[kind]) for kind in kinds]
    return any(
        tensor.shape == one.shape
        and np.allclose(tensor.astype(np.float64), one, rtol=max(2 * eps, 1e-5), atol=1e-7)
        for one in wanted
    )


def _is_causal(tensor: np.ndarray, canonical: str, config: DecoderConfig) -> bool:
    """1 where a token sees another, 0 where that comes later."""
    n = tensor.shape[-1] if tensor.ndim else 0
    return tensor.shape == (1,) * (tensor.ndim - 2) + (n, n) and np.array_equal(
        tensor.reshape(n, n), np.tri(n, dtype=tensor.dtype)
    )


def _is_never(tensor: np.ndarray, canonical: str, config: DecoderConfig) -> bool:
    """A score so low that what has it is not seen."""
    return tensor.size == 1 and bool(tensor.reshape(()) <= -1e4)


_BUFFERS = {
    r"(^|\.)rotary_emb\.inv_freq$": _is_rotary,
    r"(^|\.)(attn|attention)\.bias$": _is_causal,
    r"(^|\.)(attn|attention)\.masked_bias$": _is_never,
}


def layer_norm(path: str, name: str) -> tuple[Row, Row]:
    """Weight and bias of a norm."""
    return Row(f"{path}/scale", f"{name}.weight", "D"), Row(f"{path}/bias", f"{name}.bias", "D")


def linear(path: str, name: str, out_axes: str, in_axes: str, part: int = 0) -> tuple[Row, Row]:
    """A torch Linear: weight [out, in] and bias [out]."""
    return (
        Row(path, f"{name}.weight", f"{out_axes} {in_axes}", part),
        Row(f"{path}_bias", f"{name}.bias", out_axes, part),
    )


def self_attention(name: str, out: str = "o_proj", qk_norms: str = "K") -> tuple[Row, ...]:
    """Queries, keys and values apart, and the norms of the first two, of axes `K` or `HK`."""
    heads = {"q": "H", "k": "J", "v": "J"}
    projections = [
        linear(f"layers/attention/{n}", f"{name}{n}_proj", f"{h}K", "D") for n, h in heads.items()
    ]
    norms = {n: qk_norms.replace("H", heads[n]) for n in "qk"}
    return (
        *(row for rows in projections for row in rows),
        *linear("layers/attention/o", f"{name}{out}", "D", "HK"),
        *(
            Row(f"layers/attention/{n}_norm/scale", f"{name}{n}_norm.weight", axes)
            for n, axes in norms.items()
        ),
    )


def gated_mlp(name: str, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")):
    """The three projections of a gated MLP."""
    gate, up, down = names
    return (
        *linear("layers/mlp/gate", name + gate, "E", "D"),
        *linear("layers/mlp/up", name + up, "E", "D"),
        *linear("layers/mlp/down", name + down, "D", "E"),
    )


def plain_mlp(name: str, up: str, down: str) -> tuple[Row, ...]:
    """The two projections of an MLP that is not gated."""
    return (
        *linear("layers/mlp/up", name + up, "E", "D"),
        *linear("layers/mlp/down", name + down, "D", "E"),
    )


def experts(name: str, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")):
    """Projections of single experts, or all in one as transformers 5 holds them; no biases."""
    gate, up, down = names
    both = f"{name}gate_up_proj"
    return (
        Row("layers/mlp/gate", f"{name}{{each}}.{gate}.weight", "E D", each="X"),
        Row("layers/mlp/up", f"{name}{{each}}.{up}.weight", "E D", each="X"),
        Row("layers/mlp/down", f"{name}{{each}}.{down}.weight", "D E", each="X"),
        Row("layers/mlp/gate", both, "X (E+E) D", part=0),
        Row("layers/mlp/up", both, "X (E+E) D", part=1),
        Row("layers/mlp/down", f"{name}down_proj", "X D E"),
    )


LAYER = "model.layers.{layer}."
ENDS = (
    Row("embedding", "model.embed_tokens.weight", "V D"),
    Row("unembedding", "lm_head.weight", "V D"),
    Row("unembedding_bias", "lm_head.bias", "V"),
)


def norms(names: dict[str, str], final: str = "model.norm") -> tuple[Row, ...]:
    """The norms of a layer, our names to theirs, and the final one."""
    rows = [layer_norm("final_norm", final)]
    rows += [layer_norm(f"layers/{ours}", f"{LAYER}{hf}") for ours, hf in names.items()]
    return tuple(row for both in rows for row in both)


# Llama's four norms, by where OLMo 2, Gemma 2 and GLM-4 have them.
BEFORE = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
AFTER = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
AROUND = {
    **AFTER,
    "attention_norm": "input_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
}
LLAMA = (
    *ENDS,
    *norms(BEFORE),
    *self_attention(LAYER + "self_attn."),
    *gated_mlp(LAYER + "mlp."),
)
