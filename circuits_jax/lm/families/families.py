"""Every model family that the decoder can be: how to read its config and where its weights are.

`read_config` turns a Hugging Face config.json into a `DecoderConfig`, `read_params` a state dict
with Hugging Face names into the parameters of `decoder.Decoder`. A new family is a config reader
and a table of tensor names, both in a file of this folder; the decoder does not know where its
weights came from.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import initial_params
from circuits_jax.lm.families import (
    cohere,
    configs,
    falcon,
    gemma,
    gpt,
    gpt_oss,
    llama,
    mistral,
    olmo,
    phi,
    qwen,
    stablelm,
    tensors,
)
from circuits_jax.lm.families.family import Family
from circuits_jax.lm.families.tensors import Row
from circuits_jax.lm.files.checkpoints import RawCheckpoint
from circuits_jax.runs.checks import check_allowed
from circuits_jax.runs.errors import InputError, unknown_name

DTYPES = ("float32", "bfloat16")
STORED_DTYPES = ("float32", "bfloat16", "float16", "float64")


FAMILIES: Mapping[str, Family] = {
    "arcee": llama.ARCEE,
    "cohere": cohere.COHERE,
    "cohere2": cohere.COHERE2,
    "ernie4_5": llama.ERNIE,
    "exaone4": olmo.EXAONE4,
    "falcon": falcon.FALCON,
    "gemma": gemma.GEMMA,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma.GEMMA3,
    "glm": phi.GLM,
    "glm4": phi.GLM4,
    "gpt2": gpt.GPT2,
    "gpt_neo": gpt.GPT_NEO,
    "gpt_neox": gpt.GPT_NEOX,
    "gpt_oss": gpt_oss.GPT_OSS,
    "gptj": gpt.GPTJ,
    "granite": llama.GRANITE,
    "llama": llama.LLAMA,
    "ministral3": mistral.MINISTRAL3,
    "mistral": mistral.MISTRAL,
    "mixtral": mistral.MIXTRAL,
    "olmo": olmo.OLMO,
    "olmo2": olmo.OLMO2,
    "olmo3": olmo.OLMO3,
    "olmoe": olmo.OLMOE,
    "opt": gpt.OPT,
    "phi": phi.PHI,
    "phi3": phi.PHI3,
    "qwen2": qwen.QWEN2,
    "qwen2_moe": qwen.QWEN2_MOE,
    "qwen3": qwen.QWEN3,
    "qwen3_moe": qwen.QWEN3_MOE,
    "smollm3": llama.SMOLLM3,
    "stablelm": stablelm.STABLELM,
    "starcoder2": llama.STARCODER2,
}
# Models that take images as well: their decoder is their `text_config`, of one of these types.
_WRAPPED = {"gemma3": ("gemma3_text",), "mistral3": ("mistral", "ministral3")}


def read_config(config: Mapping[str, Any], source: str) -> DecoderConfig:
    """The decoder's settings from a Hugging Face config.json.

    Args:
        config: the file's contents; `model_type` names the family.
        source: the path or hub id it came from, for messages.

    Raises:
        InputError: unknown `model_type`, a field missing or out of range, an option that the
            decoder does not have.
    """
    model_type = str(config.get("model_type"))
    if model_type in _WRAPPED:
        inner = configs.Fields(dict(config), source).table("text_config")
        text = configs.Fields(inner, f"{source}: text_config")
        given = text.get("model_type", _WRAPPED[model_type][0])
        if given not in _WRAPPED[model_type]:
            raise InputError(
                f"{text.source}: config field 'model_type' is {given!r}, which is not supported;"
                f" allowed: {' or '.join(map(repr, _WRAPPED[model_type]))}"
            )
        return read_config(inner | {"model_type": given}, source)
    if model_type not in FAMILIES:
        raise InputError(f"{source}: {_not_loaded(model_type)}")
    fields = configs.Fields(dict(config), source)
    fields.only("is_causal", True)
    return DecoderConfig(family=model_type, **FAMILIES[model_type].read(fields))


_RECURRENT = re.compile(
    r"mamba|rwkv|xlstm|recurrent|retnet|jamba|bamba|zamba|falcon_h1|nemotron_h|granitemoehybrid|"
    r"hybrid|qwen3_next|qwen3_5|lfm2|kimi_linear|minimax$"
)


def _not_loaded(model_type: str) -> str:
    """The sentence on a type that is no family here; a name is proposed only for a mistyped one."""
    known = {*FAMILIES, *_WRAPPED}
    if _RECURRENT.search(model_type):
        return (
            f"models of type {model_type!r} have recurrent or state-space layers in place of "
            "attention, all or some; what is studied here are the heads of decoders with attention "
            f"in every layer: {', '.join(sorted(known))}"
        )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type in CONFIG_MAPPING_NAMES:
        return f"model_type {model_type!r} is not supported; allowed: {', '.join(sorted(known))}"
    return unknown_name("model_type", model_type, known)


def with_stored_head(raw: RawCheckpoint, config: DecoderConfig) -> DecoderConfig:
    """The config, untied where the checkpoint stores an unembedding that is not its embedding.

    Whatever the config says of tying, a stored unembedding is the model's, as in transformers 5.
    """
    stored = _stored_names(raw)
    head, embedding = (stored.get(name) for name in _head_and_embedding(config))
    if not (config.tied and head and embedding):
        return config
    same = np.array_equal(raw.tensors[head], raw.tensors[embedding])
    return dataclasses.replace(config, tied=same)


def read_params(
    raw: RawCheckpoint, config: DecoderConfig, dtype: str = "float32"
) -> dict[str, Any]:
    """The decoder's parameters from a checkpoint with Hugging Face names.

    Args:
        raw: the checkpoint; its tensors are read one at a time.
        config: what `read_config` and `with_stored_head` made of its config.
        dtype: `float32` or `bfloat16`; norms are float32 either way.

    Returns:
        A tree with the names and shapes of `decoder.initial_params(config, key)`, all finite.

    Raises:
        InputError: a tensor missing, of the wrong shape or type, with a number that is not finite
            in `dtype`, or stored and neither used nor equal to what is used; an unknown dtype.
    """
    check_allowed("dtype", dtype, DTYPES)
    family = FAMILIES[config.family]
    shapes = _param_shapes(config)
    stored = _stored_names(raw)
    head, embedding = _head_and_embedding(config)
    if config.tied and embedding not in stored and head in stored:
        stored[embedding] = stored[head]  # of two tied tensors a file may hold either
    rows = _rows(config, stored)
    _check_names(rows, stored, raw, config)
    factors = family.multipliers(configs.Fields(_text_config(raw.config), raw.source))
    params = {}
    for path, shape in shapes.items():
        is_norm = path.endswith(("norm/scale", "norm/bias"))
        read = np.empty(shape.shape, jnp.float32 if is_norm else dtype)
        for row in rows:
            if row.path == path:
                _fill(read, row, raw, stored, config)
        if family.norms_from_one and is_norm:
            read += 1
        if family.pairs_in_turn and path.startswith(_ROTATED):
            read = read[..., _pairs_apart(config)]
        for start, factor in factors.items():
            if path.startswith(start):
                read *= np.asarray(factor, read.dtype)
        params[path] = jax.device_put(read)
    return traverse_util.unflatten_dict(params, sep="/")


_ROTATED = ("layers/attention/q", "layers/attention/k")


def _pairs_apart(config: DecoderConfig) -> np.ndarray:
    """The order of a head's components that puts pairs (2i, 2i + 1) at (i, i + width / 2)."""
    turned = np.arange(config.rotary_width).reshape(-1, 2).T.reshape(-1)
    return np.append(turned, np.arange(config.rotary_width, config.head_width))


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the decoder alone."""
    inner = config.get("text_config") if config.get("model_type") in _WRAPPED else None
    return dict(inner or config)


def _rows(config: DecoderConfig, stored: Mapping[str, str]) -> list[Row]:
    """The rows that a config needs: of those for one parameter the first that the file has."""
    shapes, found = _param_shapes(config), {}
    for row in FAMILIES[config.family].rows:
        if row.path not in shapes or (row.shared and not config.d_shared):
            continue
        key = row.path, row.shared
        there = tensors.canonical_name(row.names(config)[0][2]) in stored
        if key not in found or (there and not found[key][1]):
            found[key] = row, there
    return [row for row, _ in found.values()]


@functools.lru_cache(maxsize=32)
def _param_shapes(config: DecoderConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """What `decoder.initial_params` gives, by path."""
    shapes = jax.eval_shape(lambda key: initial_params(config, key), jax.random.key(0))
    return traverse_util.flatten_dict(shapes, sep="/")


def _stored_names(raw: RawCheckpoint) -> dict[str, str]:
    """The checkpoint's own names by the names inside the decoder; no two may mean the same."""
    stored = {}
    for name in raw.tensors:
        first = stored.setdefault(tensors.canonical_name(name), name)
        if first != name:
            raise InputError(
                f"{raw.tensor(first)} and {name!r} are both there for one parameter; remove the one"
                " that is not the model's"
            )
    return stored


def _head_and_embedding(config: DecoderConfig) -> list[str]:
    """The names inside the decoder of the tensors that may be tied."""
    names = {row.path: row.name for row in FAMILIES[config.family].rows}
    return [tensors.canonical_name(names[path]) for path in ("unembedding", "embedding")]


def _check_names(
    rows: Iterable[Row], stored: dict[str, str], raw: RawCheckpoint, config: DecoderConfig
) -> None:
    """Raise InputError where a needed tensor is missing, or one is there that nothing would use."""
    needed = {
        tensors.canonical_name(name): name for row in rows for _, _, name in row.names(config)
    }
    missing = [name for canonical, name in needed.items() if canonical not in stored]
    if missing:
        raise InputError(
            f"{raw.source}: tensor {missing[0]!r} is missing; {len(missing)} of the {len(needed)}"
            f" that a {config.family} model needs are not there"
        )
    used = {stored[canonical] for canonical in needed}
    unused = {c: name for c, name in stored.items() if name not in used}
    if raw.config.get("model_type") in _WRAPPED:
        unused = {c: n for c, n in unused.items() if not tensors.OF_IMAGES.search(c)}
    extra = [n for c, n in unused.items() if not _is_what_is_used(c, n, stored, raw, config)]
    if extra:
        raise InputError(
            f"{raw.tensor(extra[0])} has no place in this {config.family} model, or is"
            f" not what it uses there ({len(extra)} such); its config and its weights disagree"
        )


def _is_what_is_used(
    canonical: str, name: str, stored: dict[str, str], raw: RawCheckpoint, config: DecoderConfig
) -> bool:
    """Whether a tensor that is not read holds what the decoder computes, or reads elsewhere."""
    head, embedding = _head_and_embedding(config)
    if canonical == head:
        return np.array_equal(raw.tensors[name], raw.tensors[stored[embedding]])
    check = tensors.buffer_check(canonical)
    return check is not None and check(raw.tensors[name], canonical, config)


def _fill(
    out: np.ndarray, row: Row, raw: RawCheckpoint, stored: dict[str, str], config: DecoderConfig
) -> None:
    """Copy a parameter out of the checkpoint into `out`, holding one tensor of it at a time."""
    sizes = tensors.axis_sizes(config)
    for layer, number, name in row.names(config):
        found = stored[tensors.canonical_name(name)]
        place = tensors.place_in(out[layer] if row.per_layer else out, row, number, config)
        with np.errstate(over="ignore"):
            place[...] = _read(found, row, raw, sizes).reshape(place.shape)
        if not is_finite(np.ascontiguousarray(place)):
            raise InputError(
                f"{raw.tensor(found)} has a number that is not finite in {out.dtype};"
                " a model with such weights says nothing"
            )


def is_finite(x: np.ndarray) -> bool:
    """Whether no number of a float32 or bfloat16 array is NaN or infinite.

    Those are the largest of their sign, read as whole numbers, and whole numbers are compared
    without a copy; both types have 8 bits of exponent after the sign.
    """
    bits = 8 * x.itemsize
    infinity = 0xFF << (bits - 9)
    return bool(
        x.view(f"int{bits}").max() < infinity
        and x.view(f"uint{bits}").max() < infinity + (1 << (bits - 1))
    )


def _read(name: str, row: Row, raw: RawCheckpoint, sizes: dict[str, int]) -> np.ndarray:
    """One tensor with our axes, once its shape and type are those that the config implies."""
    tensor = raw.tensors[name]
    want = tensors.stored_shape(row, sizes)
    if tuple(tensor.shape) != want:
        raise InputError(
            f"{raw.tensor(name)} has shape {list(tensor.shape)}; its config needs {list(want)}"
        )
    if tensor.dtype.name not in STORED_DTYPES:
        raise InputError(
            f"{raw.tensor(name)} is stored as {tensor.dtype.name};"
            f" allowed: {', '.join(STORED_DTYPES)}"
        )
    return tensors.to_ours(tensor, row, sizes)
