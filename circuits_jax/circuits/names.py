"""Names of nodes and of what they read, in the words of other libraries and back.

    ours, EAP-IG's, MIB's   a20.h0    a20.h0<q>   m3    input   logits   (`graph.Graph`)
    pages, papers           20.0      L20H0
    TransformerLens         ("blocks.20.attn.hook_z", 0), as text blocks.20.attn.hook_z[0]
    nnsight                 model.layers[20].self_attn.o_proj.input[..., 0:64]: where the model of
                            Hugging Face has it, by the table of its family (`lm/families`)

A head is its z, which W_O turns into what it writes; what a layer's norm does to that afterwards,
where a family has one, comes after all of these.
"""

import re
from collections.abc import Sequence
from typing import Any

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.families.families import FAMILIES
from circuits_jax.runs.errors import InputError

# What stands for a node, or a reader: patterns with `layer`, `head` and `part` -> our name.
FORMS = {
    r"a(?P<layer>\d+)\.h(?P<head>\d+)(<(?P<part>[qkv])>)?": "a{layer}.h{head}{part}",
    r"L?(?P<layer>\d+)[.H](?P<head>\d+)": "a{layer}.h{head}",
    r"blocks\.(?P<layer>\d+)\.attn\.hook_(z|result)\[(?P<head>\d+)\]": "a{layer}.h{head}",
    r"blocks\.(?P<layer>\d+)\.(attn\.hook_|hook_)(?P<part>[qkv])(_input)?\[(?P<head>\d+)\]": (
        "a{layer}.h{head}{part}"
    ),
    r"m(?P<layer>\d+)|blocks\.(?P<layer2>\d+)\.hook_mlp_(out|in)": "m{layer}",
    r"input|(blocks\.0\.)?hook_(embed|resid_pre)": "input",
    r"logits|ln_final\.hook_normalized": "logits",
}
Hook = tuple[str, int | None]
SHOWN = "20.0, L20H0, a20.h0, m3, blocks.20.attn.hook_z[0]"


def node_name(text: Any, config: DecoderConfig | None = None) -> str:
    """Our name of a node, or of one of its inputs, whoever named it.

    Args:
        text: in any of the forms above; a pair (layer, head), or what `transformer_lens` gives.
        config: of the model, which paths of `nnsight`, and the logits of TransformerLens, need.

    Raises:
        InputError: none of these forms, or a node that the model of `config` does not have.
    """
    if isinstance(text, tuple) and isinstance(text[0], str):
        text = text[0] if text[1] is None else f"{text[0]}[{text[1]}]"
    if not isinstance(text, str):
        pair = list(text) if isinstance(text, Sequence) else []
        if len(pair) != 2 or not all(type(x) is int and x >= 0 for x in pair):
            raise InputError(f"{text!r} is no head; allowed are {SHOWN} and [20, 0]")
        text = f"{pair[0]}.{pair[1]}"
    found = _found(text.strip(), config)
    if found is None:
        raise InputError(f"{text[:80]!r} names no node; allowed are {SHOWN} and [20, 0]")
    if config is not None:
        _check(text, found, config)
    return found


def _found(text: str, config: DecoderConfig | None) -> str | None:
    for form, name in FORMS.items():
        if match := re.fullmatch(form, text):
            found = match.groupdict()
            layer = found.get("layer") or found.get("layer2") or 0
            part = f"<{found['part']}>" if found.get("part") else ""
            return name.format(layer=int(layer), head=int(found.get("head") or 0), part=part)
    if config is None:
        return None
    if text == transformer_lens("logits", config.n_layers)[0]:
        return "logits"
    return _of_path(text, config)


def _check(text: str, name: str, config: DecoderConfig) -> None:
    layer, head = split(name)
    if layer >= config.n_layers or head >= config.n_heads:
        raise InputError(
            f"{text[:80]!r} is not in the model, which has {config.n_layers} layers of "
            f"{config.n_heads} heads, counted from 0"
        )


def split(name: str) -> tuple[int, int]:
    """Layer and head of one of our names; 0 for what it does not have."""
    found = [int(number) for number in re.findall(r"\d+", name)]
    layer, head, *_ = *found, 0, 0
    return layer, head


def transformer_lens(name: str, n_layers: int) -> Hook:
    """Hook of TransformerLens and index of the head on its head axis, or None.

    Args:
        name: ours, as `graph.Graph` gives it.
        n_layers: of the model; the logits read what the last layer leaves.
    """
    layer, head = split(name)
    if name in ("input", "logits"):
        return "hook_embed" if name == "input" else f"blocks.{n_layers - 1}.hook_resid_post", None
    if name[0] == "m":
        return f"blocks.{layer}.hook_mlp_out", None
    part = re.search(r"<([qkv])>", name)
    return f"blocks.{layer}.{f'hook_{part[1]}_input' if part else 'attn.hook_z'}", head


def nnsight(name: str, config: DecoderConfig) -> str:
    """Where the model of Hugging Face has what a node writes, as a path of nnsight.

    Raises:
        InputError: a reader of the stream, which has no place of its own there; or a model of no
            family of Hugging Face.
    """
    if name == "logits" or "<" in name:
        raise InputError(f"{name!r} reads the stream and has no path; allowed are nodes that write")
    layer, head = split(name)
    path = {"i": _module("embedding", config), "m": _mlp(config), "a": _attention(config)}[name[0]]
    path = re.sub(r"\.\{layer\}", f"[{layer}]", path)
    width = config.head_width
    part = f".input[..., {head * width}:{(head + 1) * width}]" if name[0] == "a" else ".output"
    return path + part


def _of_path(text: str, config: DecoderConfig) -> str | None:
    """The node of a path of `nnsight`."""
    if config.family not in FAMILIES:
        return None
    kinds = {"input": _module("embedding", config), "m": _mlp(config), "a": _attention(config)}
    for kind, path in kinds.items():
        form = re.escape(path).replace(r"\.\{layer\}", r"(\[(?P<layer>\d+)\]|\.(?P<layer2>\d+))")
        slices = r"\.input\[(\.\.\.|:, ?:), ?(?P<start>\d+):(?P<stop>\d+)\]"
        match = re.fullmatch(form + (slices if kind == "a" else r"(\.output)?"), text)
        if not match:
            continue
        if kind == "input":
            return "input"
        layer = match["layer"] or match["layer2"]
        if kind == "m":
            return f"m{layer}"
        head, rest = divmod(int(match["start"]), config.head_width)
        if not rest and int(match["stop"]) == (head + 1) * config.head_width:
            return f"a{layer}.h{head}"
    return None


def _module(path: str, config: DecoderConfig) -> str:
    """Name of the module of Hugging Face's that holds a parameter of ours."""
    if config.family not in FAMILIES:
        raise InputError(f"a model of family {config.family!r} is none of Hugging Face's")
    rows = FAMILIES[config.family].rows
    return next(row.name for row in rows if row.path == path).removesuffix(".weight")


def _attention(config: DecoderConfig) -> str:
    return _module("layers/attention/o", config)


def _mlp(config: DecoderConfig) -> str:
    """The module whose output is the MLP's: the last projection, or the mixture of experts."""
    return _module("layers/mlp/down", config).partition(".experts")[0]
