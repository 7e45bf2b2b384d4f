"""The GGUF container: one reading of an unchanged file, and files that are none or damaged."""

import os
import struct

import gguf
import numpy as np
import pytest

from circuits_jax.lm.files import gguf_file
from circuits_jax.lm.files.gguf_file import open_gguf, read_tensor
from circuits_jax.runs.errors import InputError

COUNT = struct.pack("<Q", 2**60)
HEADER = b"GGUF" + struct.pack("<I", 3)


def write(path, *, endianess=gguf.GGUFEndian.LITTLE, dtype=np.float32):
    """A file with two settings, a list of numbers, a list of texts and two tensors."""
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    writer.add_array("llama.numbers", [11, 22, 33])
    writer.add_array("llama.words", ["", "é", "\u2581x"])
    writer.add_float32("llama.one", 0.5)
    writer.add_bool("llama.two", True)
    writer.add_tensor("first", np.arange(6, dtype=dtype).reshape(2, 3))
    writer.add_tensor("other", np.zeros(5, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_and_tensors(tmp_path):
    file = open_gguf(write(tmp_path / "m.gguf"))
    assert file.path == tmp_path / "m.gguf"
    assert file.metadata["llama.numbers"] == [11, 22, 33]
    assert file.metadata["llama.words"] == ["", "é", "\u2581x"]
    assert file.metadata["llama.one"] == 0.5
    assert file.metadata["llama.two"] is True
    assert np.array_equal(read_tensor(file, "first"), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(KeyError):
        read_tensor(file, "absent")


def test_a_file_is_read_once_until_it_changes(tmp_path):
    path = write(tmp_path / "m.gguf")
    before = open_gguf(path)
    assert open_gguf(str(path)).metadata is before.metadata
    os.utime(path, ns=(0, 0))
    assert open_gguf(path).metadata is not before.metadata


def test_types_that_are_not_dequantised(tmp_path):
    path = write(tmp_path / "m.gguf", dtype=np.float64)
    with pytest.raises(InputError, match="stored as F64"):
        read_tensor(open_gguf(path), "first")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 a zip file", "not a GGUF file"),
        (b"GGUF", "truncated"),
        (HEADER, "truncated"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(16), "version 1;"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "little-endian"),
        (HEADER + b"\xff" * 16, "truncated"),  # as many tensors and settings
        (HEADER + bytes(8) + COUNT, "truncated"),  # settings
        (HEADER + COUNT + bytes(8), "truncated"),  # tensors
    ],
)
def test_files_that_are_no_gguf(tmp_path, content, message):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_gguf(path)


def test_big_endian_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="little-endian"):
        open_gguf(write(tmp_path / "m.gguf", endianess=gguf.GGUFEndian.BIG))


def test_paths_that_are_no_file(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(InputError, match="cannot be opened"):
            open_gguf(path)


NUMBERS = struct.pack("<IQ", gguf.GGUFValueType.INT32, 3)
BYTES = struct.pack("<IQ", gguf.GGUFValueType.UINT8, 2**60)
NESTED = struct.pack("<IQ", gguf.GGUFValueType.ARRAY, 2**60)
WORDS = struct.pack("<IQ", gguf.GGUFValueType.STRING, 3)
SHAPE = struct.pack("<IQQI", 2, 3, 2, gguf.GGMLQuantizationType.F32)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"llama.two", b"llama.one", "llama.one"),
        (b"other", b"first", "first"),
        (b"llama.two", b"llama.\xff\xff\xff", "utf-8"),
        (NUMBERS, NUMBERS[:4] + COUNT, "ends at byte"),
        (NUMBERS, BYTES, "ends at byte"),
        (NUMBERS, NESTED, "damaged"),
        (WORDS, WORDS[:4] + COUNT, "ends at byte"),
        (WORDS + bytes(8), WORDS + COUNT, "ends at byte"),
        (SHAPE, struct.pack("<IQQI", 2, 2**32, 2**32, 0), "damaged"),
        (SHAPE, struct.pack("<IQQI", 2, 2**63, 2**63, 0), "damaged"),
        (SHAPE, struct.pack("<IQQI", 2, 3, 2**60, 0), "ends at byte"),
        (SHAPE, struct.pack("<IQQI", 2, 3, 0, 0), r"'first' has the shape \[3 0\]"),
        (SHAPE, struct.pack("<IQQI", 2**31, 3, 2, 0), "ends at byte"),
        (SHAPE, struct.pack("<IQQI", 2, 3, 2, 99), "99"),
        (SHAPE + bytes(8), SHAPE + b"\xff" * 8, "damaged"),
        (SHAPE + bytes(8), SHAPE + COUNT, "ends at byte"),
    ],
)
def test_damage_is_told(tmp_path, old, new, message):
    path = write(tmp_path / "m.gguf")
    whole = path.read_bytes()
    assert whole.count(old) == 1
    path = tmp_path / "damaged.gguf"
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(InputError, match=message):
        open_gguf(path)


def test_settings_without_tensors_are_not_cut(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    whole = (tmp_path / "m.gguf").read_bytes()
    assert open_gguf(tmp_path / "m.gguf").metadata["general.architecture"] == "llama"
    for size in range(8, len(whole)):
        cut = tmp_path / f"{size}.gguf"
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match="truncated"):
            open_gguf(cut)


def test_headers_without_an_end_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "_MAX_READS", 20)
    with pytest.raises(InputError, match="more than 20 parts"):
        open_gguf(write(tmp_path / "m.gguf"))


def test_a_vocabulary_is_not_read_word_by_word(tmp_path, monkeypatch):
    """It would take longer than the weights."""
    words = [f"word {n}" for n in range(500)]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("llama.words", words)
    writer.add_array("llama.flags", [n % 2 == 0 for n in range(500)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    monkeypatch.setattr(gguf_file, "_MAX_READS", 50)
    found = open_gguf(tmp_path / "m.gguf").metadata
    assert found["llama.words"] == words
    assert found["llama.flags"] == [True, False] * 250
