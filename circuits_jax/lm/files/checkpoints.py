"""Weights on disk -> one `RawCheckpoint`, whatever they came from.

Every source (a folder as Hugging Face writes it, a hub id, a GGUF file) becomes a configuration in
the terms of Hugging Face's config.json and a mapping from Hugging Face's parameter names to arrays
in Hugging Face's layouts, so that `lm/families/families.py` has a single language to translate
from. Arrays are read when they are asked for: loading needs the memory of the model and of one
tensor more.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuits_jax.lm.files.quantised import dequantised
from circuits_jax.runs.errors import InputError

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_TORCH_WEIGHTS = ("*.bin", "*.pth", "*.pt")
# What a model needs from its repository: no second copy of the weights in another format.
_HUB_FILES = (
    "config.json",
    _ADAPTER,
    "adapter_model.safetensors",
    "model*.safetensors",
    _INDEX,
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclasses.dataclass(frozen=True)
class LazyTensors(Mapping[str, np.ndarray]):
    """Arrays by name, each read afresh on access; nothing is kept.

    Attributes:
        readers: for every name the function that reads its array.

    A name that is not there raises KeyError, as in any mapping.
    """

    readers: Mapping[str, Callable[[], np.ndarray]]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


@dataclasses.dataclass(frozen=True)
class RawCheckpoint:
    """A model as it was published, before it is ours.

    Attributes:
        config: the terms of Hugging Face's config.json, `model_type` among them.
        tensors: Hugging Face's parameter names and layouts; float32, float16 or bfloat16.
        name: what to call the model in reports.
        source: the path or hub id that it came from, for error messages and for the tokenizer.
        stored_as: what the file calls a tensor, where that is another name; for error messages.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    name: str
    source: str
    stored_as: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tensor(self, name: str) -> str:
        """How a sentence names a tensor: the file or model, and its name there."""
        return f"{self.source}: tensor {self.stored_as.get(name, name)!r}"


def read_folder(path: str | Path) -> RawCheckpoint:
    """Reads a folder with config.json and safetensors weights, in one file or in shards.

    Args:
        path: the folder; its `model.safetensors.index.json`, where there is one, names the shards.

    Returns:
        The checkpoint; its tensors are read on access and keep the type they are stored in.

    Raises:
        InputError: the folder, its configuration or its weights are missing, damaged or not
            safetensors; or it holds weights that would not be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; a model folder holds config.json and {_WEIGHTS}."
        )
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise InputError(
            f"{folder / 'config.json'} has no model_type, a family name such as 'gpt2'."
        )
    whole, index = (folder / _WEIGHTS).is_file(), (folder / _INDEX).is_file()
    if whole and index and _WEIGHTS not in _weight_map(folder / _INDEX).values():
        raise InputError(
            f"{folder} holds two models, {_WEIGHTS} and the shards of {_INDEX}; remove one."
        )
    if (folder / _ADAPTER).is_file():
        raise InputError(
            f"{folder} holds {_ADAPTER}, an adapter to weights that it would change, beside a "
            "config.json; put the two in folders of their own, and give both (--config.model and "
            "--config.adapter), or merge them with peft's merge_and_unload."
        )
    if index:
        tensors = _read_shards(folder)
    elif whole:
        tensors = read_safetensors(folder / _WEIGHTS)
    else:
        raise InputError(_no_weights(folder))
    tensors = dequantised(tensors, config, str(folder))
    return RawCheckpoint(config, LazyTensors(tensors), folder.resolve().name, str(folder))


def read_hub(hub_id: str) -> RawCheckpoint:
    """Downloads a model from the Hugging Face hub, or finds it in the local cache, and reads it.

    Args:
        hub_id: `owner/name`, or a bare name such as `gpt2`.

    Returns:
        The checkpoint, as `read_folder` gives it for the downloaded files.

    Raises:
        InputError: as `hub_folder`, or what was downloaded cannot be read.
    """
    return dataclasses.replace(read_folder(hub_folder(hub_id)), name=hub_id, source=hub_id)


def hub_folder(hub_id: str) -> Path:
    """The local folder with a hub model's configuration, weights and tokenizer files.

    Args:
        hub_id: `owner/name`, or a bare name such as `gpt2`.

    Raises:
        InputError: the hub cannot be reached and the model is not cached, or the id is unknown or
            not public.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=list(_HUB_FILES)))
    # The hub client raises its own, its HTTP library's and the system's errors for one fact.
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"The model '{hub_id}' could not be had from the Hugging Face hub ({reason}); give the "
            "id of a public model where the hub can be reached, a local folder with config.json "
            "and safetensors, or a GGUF file."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}, which a model folder needs.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__} where an object is needed.")
    return content


def read_safetensors(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Readers for the tensors of one file; the file's size is checked against its header."""
    import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="numpy")
        names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no complete safetensors file: {error}.") from None
    return {name: functools.partial(_read_tensor, path, opened, name) for name in names}


def _read_tensor(path: Path, opened: Any, name: str) -> np.ndarray:
    """One tensor of an opened file."""
    from safetensors import SafetensorError

    kind = opened.get_slice(name).get_dtype()
    if kind in _OF_8_BITS:  # which numpy has not, and safetensors does not hand to it
        return _raw_tensor(path, name, _OF_8_BITS[kind])
    try:
        return opened.get_tensor(name)
    except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{path}: tensor '{name}' of type {kind} is not read ({error}).") from None


_OF_8_BITS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}


def _raw_tensor(path: Path, name: str, dtype: str) -> np.ndarray:
    """One tensor of a file whose header was found whole."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        return np.frombuffer(file.read(end - start), dtype).reshape(entry["shape"])


def _read_shards(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Readers for the tensors that the index spreads over several files."""
    index = folder / _INDEX
    weight_map = _weight_map(index)
    readers = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise InputError(f"{index} names the shard '{shard}', which is not in {folder}.")
        for name, reader in read_safetensors(folder / shard).items():
            if weight_map.get(name, shard) != shard or name in readers:
                raise InputError(
                    f"{folder / shard} holds the tensor '{name}', which another shard holds too; "
                    "one of the two would not be used."
                )
            readers[name] = reader
    absent = [name for name in weight_map if name not in readers]
    if absent:
        raise InputError(
            f"{index} lists the tensor '{absent[0]}' in '{weight_map[absent[0]]}', which does not "
            f"hold it ({len(absent)} such tensors)."
        )
    return readers


def _weight_map(index: Path) -> dict[str, str]:
    """Which shard holds each tensor."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map from tensor names to file names.")
    return weight_map


def _no_weights(folder: Path) -> str:
    """The sentence for a folder without safetensors, with the way out where there is one."""
    torch_files = sorted(file.name for glob in _TORCH_WEIGHTS for file in folder.glob(glob))
    if not torch_files:
        return f"{folder} has no weights; {_WEIGHTS} or {_INDEX} with its shards is needed."
    return (
        f"{folder} has weights only as {torch_files[0]}, and safetensors is needed; convert them "
        "once where torch is installed, with transformers' "
        f"AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('NEW_FOLDER')."
    )
