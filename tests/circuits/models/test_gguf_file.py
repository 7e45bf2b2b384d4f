"""The GGUF container: agreement with the gguf package's reader, and files that are none."""

import gguf
import numpy as np
import pytest

from circuits_jax.errors import InputError
from circuits_jax.models.gguf_file import open_gguf, read_tensor

DEQUANTISED = list(gguf.quants._type_traits)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes hold infinities
@pytest.mark.parametrize("kind", DEQUANTISED, ids=lambda kind: kind.name)
def test_parser_agrees_with_the_gguf_package(tmp_path, kind):
    path = tmp_path / "m.gguf"
    shape = (6, 512)
    block = gguf.quants.quant_shape_to_byte_shape(shape, kind)
    content = np.random.default_rng(1).integers(0, 256, block, np.uint8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("llama.words", ["", "é", "\u2581x" * 9])
    writer.add_array("llama.numbers", [-1, 2, 3])
    writer.add_float64("llama.real", 0.1)
    writer.add_int64("llama.whole", -(2**40))
    writer.add_bool("llama.flag", True)
    writer.add_tensor("t", content, raw_dtype=kind)
    writer.add_tensor("u", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = open_gguf(path), gguf.GGUFReader(path)
    for key, value in ours.metadata.items():
        assert value == theirs.fields[key].contents()
    for tensor in theirs.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(read_tensor(ours, tensor.name), expected, equal_nan=True)


def test_types_that_are_not_dequantised(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("t", np.ones((2, 3)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="stored as F64"):
        read_tensor(open_gguf(path), "t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 a zip file", "not a GGUF file"),
        (b"GGUF", "truncated"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(16), "version 1;"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "little-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "truncated"),
    ],
)
def test_files_that_are_no_gguf(tmp_path, content, message):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_gguf(path)


def test_paths_that_are_no_file(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(InputError, match="cannot be opened"):
            open_gguf(path)
