"""LoRA adapters (arXiv 2106.09685), merged into the weights that they were trained beside.

W becomes W + s B A, where s is `lora_alpha / r`, or `lora_alpha / sqrt(r)` of rank-stabilised ones.
What an adapter was allowed to train in full (`modules_to_save`) takes the place of its weight.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits_jax.lm.files.checkpoints import (
    LazyTensors,
    RawCheckpoint,
    hub_folder,
    read_json,
    read_safetensors,
)
from circuits_jax.runs.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Options that change what an adapter's weights mean, and the values at which they do not.
IDLE = {
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "alora_invocation_tokens": ([],),
    "use_qalora": (False,),
    "layer_replication": ([],),
}
_PARTS = {"lora_A.weight": 0, "lora_B.weight": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}


def adapter_folder(source: str) -> Path:
    """The folder of an adapter, or of a hub id's.

    Raises:
        InputError: there is no adapter.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith(("/", ".", "~")) or source.count("/") != 1:
            raise InputError(f"the adapter {source} is no folder; give one with {CONFIG}")
        folder = hub_folder(source)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}, which an adapter's folder needs")
    return folder


def base_of(folder: Path) -> str:
    """What model an adapter says that it belongs to: a folder or hub id."""
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{folder / CONFIG} names no base_model_name_or_path; give the model that the adapter "
            "belongs to, and the adapter beside it (--config.model and --config.adapter)"
        )
    return base


def merged(raw: RawCheckpoint, source: str, canonical: Callable[[str], str]) -> RawCheckpoint:
    """The checkpoint with an adapter in its weights.

    Args:
        raw: the model that the adapter was trained beside.
        source: the adapter's folder or hub id.
        canonical: the name of a tensor inside the decoder, whichever class saved it.

    Raises:
        InputError: no LoRA, or one of another model; names the file and the tensor.
    """
    folder = adapter_folder(source)
    config, file = read_json(folder / CONFIG), folder / WEIGHTS
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        kind = "DORA" if config.get("use_dora") else config.get("peft_type")
        raise InputError(
            f"{folder / CONFIG} is of a {kind} adapter; merged are those of type LORA, others with "
            "peft's merge_and_unload and save_pretrained('NEW_FOLDER')"
        )
    for name, idle in IDLE.items():
        if config.get(name) not in (None, *idle):
            allowed = ", ".join(map(repr, idle))
            raise InputError(
                f"{folder / CONFIG}: {name} is {config[name]!r}, and the adapter no plain sum of"
                f" weights; allowed: {allowed}; others with peft's merge_and_unload"
            )
    if not file.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}, the adapter's weights as safetensors")
    names = {canonical(name): name for name in raw.tensors}
    changes: dict[str, list] = {}
    whole = {}
    for name, read in read_safetensors(file).items():
        inner = name.removeprefix("base_model.model.")
        part = next((part for part in _PARTS if inner.endswith("." + part)), None)
        stem = inner.removesuffix("." + part) if part else inner
        own = stem + ".weight" if part else stem.replace(".modules_to_save.default", "")
        found = names.get(canonical(own))
        if found is None:
            raise InputError(
                f"{file}: tensor {name!r} changes {own!r}, which {raw.source} does not have; the "
                "adapter belongs to another model"
            )
        if part is None:
            whole[found] = read
        else:
            changes.setdefault(found, [stem, None, None])[1 + _PARTS[part]] = read
    if not changes and not whole:
        raise InputError(f"{file} holds no tensors; nothing would be merged")
    readers: dict[str, Callable[[], np.ndarray]]
    readers = {name: functools.partial(raw.tensors.__getitem__, name) for name in raw.tensors}
    readers |= whole
    for found, (stem, a, b) in changes.items():
        if a is None or b is None:
            raise InputError(f"{file}: {stem!r} has one of lora_A and lora_B; both are needed")
        scale = _scale(config, stem, folder / CONFIG)
        conv1d = raw.config.get("model_type") == "gpt2" and ".c_" in found
        where = raw.tensor(found)
        readers[found] = functools.partial(_sum, readers[found], a, b, scale, conv1d, where)
    name = f"{raw.name} with {folder.name}"
    return dataclasses.replace(raw, tensors=LazyTensors(readers), name=name)


def _scale(config: Mapping[str, Any], stem: str, path: Path) -> float:
    """The factor of one module's B A."""

    def of_module(name: str, default: Any) -> float:
        patterns = config.get(name) or {}
        keys = [k for k in patterns if re.fullmatch(rf"(.*\.)?({k})", stem)]
        value = patterns[keys[0]] if keys else default
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(f"{path}: the rank or alpha of {stem} is {value!r}; allowed: above 0")
        return float(value)

    rank = of_module("rank_pattern", config.get("r"))
    alpha = of_module("alpha_pattern", config.get("lora_alpha"))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _sum(
    read: Callable[[], np.ndarray],
    read_a: Callable[[], np.ndarray],
    read_b: Callable[[], np.ndarray],
    scale: float,
    transposed: bool,
    where: str,
) -> np.ndarray:
    """W + scale B A; transposed where W is stored so (GPT-2's matrices, embeddings)."""
    weight = read().astype(np.float32)
    a, b = (x().astype(np.float32) for x in (read_a, read_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise InputError(f"{where} cannot be changed by lora_A {a.shape} and lora_B {b.shape}")
    change = scale * (b @ a)
    if transposed or change.shape != weight.shape:
        change = change.T
    if change.shape != weight.shape:
        raise InputError(
            f"{where} has shape {list(weight.shape)}, and lora_B lora_A {list((b @ a).shape)}; the "
            "adapter belongs to another model"
        )
    return weight + change
