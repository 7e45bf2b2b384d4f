"""Folders and the hub: tensors in one file or in shards, every stored type, and bad input."""

import json

import huggingface_hub
import huggingface_hub.errors
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from circuits_jax.lm.files.checkpoints import read_folder, read_hub
from circuits_jax.runs.errors import InputError

CONFIG = {"model_type": "gpt2", "n_layer": 1}
TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def tensors_of(dtype, names=("a.weight", "b.weight", "c.bias")):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((3, 5)).astype(dtype) for name in names}


def write_folder(folder, tensors, shards=None):
    """A model folder; `shards` maps file names to the tensor names that each holds."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if shards is None:
        save_file(tensors, folder / "model.safetensors")
        return folder
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def sharded(folder):
    shards = {
        "model-00001-of-00002.safetensors": ["a.weight"],
        "model-00002-of-00002.safetensors": ["b.weight", "c.bias"],
    }
    return write_folder(folder, tensors_of(np.float32), shards)


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_keep_their_type_and_values(tmp_path, dtype):
    tensors = tensors_of(dtype)
    raw = read_folder(write_folder(tmp_path / "tiny", tensors))
    assert raw.config == CONFIG
    assert raw.name == "tiny"
    assert raw.source == str(tmp_path / "tiny")
    assert set(raw.tensors) == set(tensors)
    for name, value in tensors.items():
        assert raw.tensors[name].dtype == dtype
        assert np.array_equal(raw.tensors[name], value)


def test_shards_read_as_one_file(tmp_path):
    whole = read_folder(write_folder(tmp_path / "whole", tensors_of(np.float32)))
    parts = read_folder(sharded(tmp_path / "parts"))
    assert set(whole.tensors) == set(parts.tensors)
    assert all(np.array_equal(whole.tensors[name], parts.tensors[name]) for name in whole.tensors)


def test_absent_names_raise_key_error(tmp_path):
    raw = read_folder(write_folder(tmp_path / "tiny", tensors_of(np.float32)))
    assert "d.weight" not in raw.tensors
    with pytest.raises(KeyError):
        raw.tensors["d.weight"]


def refuse(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_model(tmp_path):
    refuse(tmp_path / "absent", "is not a folder")
    refuse(tmp_path, "has no config.json")
    (tmp_path / "config.json").write_text("{'model_type': ")
    refuse(tmp_path, r"config.json cannot be read as JSON")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    refuse(tmp_path, r"config.json cannot be read as JSON")
    (tmp_path / "config.json").write_text("[1]")
    refuse(tmp_path, "holds a JSON list")
    (tmp_path / "config.json").write_text("{}")
    refuse(tmp_path, "has no model_type")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    refuse(tmp_path, "has no weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    refuse(tmp_path, r"pytorch_model\.bin.*safetensors.*save_pretrained")


def test_truncated_and_foreign_weights(tmp_path):
    folder = write_folder(tmp_path / "tiny", tensors_of(np.float32))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in (0, 4, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refuse(folder, "no complete safetensors file")
    path.write_bytes(b"\xff" * 64)
    refuse(folder, "no complete safetensors file")


def test_indexes_that_lie(tmp_path):
    folder = sharded(tmp_path / "tiny")
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    for weight_map, message in (
        ({**good, "d.weight": "model-00001-of-00002.safetensors"}, "'d.weight'.*does not"),
        ({**good, "a.weight": "model-00003-of-00002.safetensors"}, "00003.*is not in"),
        ({**good, "a.weight": "../other.safetensors"}, "other.*is not in"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        refuse(folder, message)
    index.write_text("{")
    refuse(folder, "cannot be read as JSON")


def test_no_weights_are_left_aside(tmp_path):
    """A second model, an adapter, or a second tensor of a name."""
    folder = sharded(tmp_path / "two")
    save_file(tensors_of(np.float32), folder / "model.safetensors")
    refuse(folder, r"two models, model\.safetensors and the shards")
    folder = write_folder(tmp_path / "adapted", tensors_of(np.float32))
    (folder / "adapter_config.json").write_text("{}")
    refuse(folder, r"adapter_config\.json.*merge_and_unload")
    tensors = tensors_of(np.float32)
    for extra, index in (("a.weight", True), ("d.weight", False)):
        shards = {"model-1.safetensors": ["a.weight"], "model-2.safetensors": ["b.weight"]}
        folder = write_folder(tmp_path / f"twice-{extra}", tensors, shards)
        holders = ["model-2.safetensors"] if index else list(shards)
        for shard in holders:
            held = {name: tensors[name] for name in shards[shard]}
            save_file({**held, extra: np.ones(3, np.float32)}, folder / shard)
        refuse(folder, rf"holds the tensor '{extra}', which another shard holds too")


def test_types_that_numpy_has_not_are_told(tmp_path):
    folder = write_folder(tmp_path / "tiny", tensors_of(np.float32))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32","shape":[3,5]', b'"F4" ,"shape":[3,5]', 1))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        list(read_folder(folder).tensors.values())


def test_hub_reads_what_was_downloaded(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "snapshot", tensors_of(np.float32))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(folder))
    raw = read_hub("owner/tiny")
    assert (raw.name, raw.source) == ("owner/tiny", "owner/tiny")
    assert set(raw.tensors) == set(tensors_of(np.float32))


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("no route\nto host"),
        huggingface_hub.errors.LocalEntryNotFoundError("not in the cache"),
        ValueError("bad id"),
    ],
)
def test_hub_failures_are_one_sentence(monkeypatch, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"'owner/x'.*local folder.*GGUF") as caught:
        read_hub("owner/x")
    assert "\n" not in str(caught.value)


def test_impossible_hub_ids_need_no_network():
    with pytest.raises(InputError, match="a//b"):
        read_hub("a//b")
