"""Weights stored in few bits, against what the formats say, number by number."""

import json
import re

import ml_dtypes
import numpy as np
import pytest

from circuits_jax.lm.files.checkpoints import read_folder
from circuits_jax.lm.files.quantised import dequantised
from circuits_jax.runs.errors import InputError

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}}


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def given(tensors, config):
    readers = {name: lambda x=x: x for name, x in tensors.items()}
    return {name: read() for name, read in dequantised(readers, config, "tiny").items()}


def test_blocks_of_fp8_times_their_scales():
    """Of a matrix that the blocks do not divide, as the last ones of a row or column."""
    weight, scale = random(10, 7).astype(ml_dtypes.float8_e4m3fn), random(3, 3)
    found = given({"a.weight": weight, "a.weight_scale_inv": scale, "b.weight": scale}, FP8)
    assert set(found) == {"a.weight", "b.weight"}
    for i, j in np.ndindex(10, 7):
        wanted = np.float32(weight[i, j]) * scale[i // 4, j // 3]
        np.testing.assert_allclose(found["a.weight"][i, j], wanted, rtol=1e-6)
    np.testing.assert_array_equal(found["b.weight"], scale)


@pytest.mark.parametrize(
    ("suffix", "shape", "method", "factor"),
    [
        ("weight_scale_inv", (), "fp8", 1),
        ("weight_scale", (1,), "compressed-tensors", 1),
        ("weight_scale", (6, 1), "compressed-tensors", 1),
        ("SCB", (6,), "bitsandbytes", 1 / 127),
    ],
)
def test_one_scale_of_a_tensor_or_of_each_row(suffix, shape, method, factor):
    weight, scale = np.arange(-12, 12, dtype=np.int8).reshape(6, 4), np.abs(random(*shape))
    config = {"quantization_config": {"quant_method": method}}
    idle = {"a.input_scale": random(1), "a.weight_format": np.ones(1)}
    found = given({"a.weight": weight, f"a.{suffix}": np.asarray(scale), **idle}, config)
    assert set(found) == {"a.weight"}
    rows = np.broadcast_to(np.asarray(scale).reshape(-1, 1), (6, 1))
    np.testing.assert_allclose(found["a.weight"], weight * rows * factor, rtol=1e-6)


def test_mxfp4_is_read_as_the_format_says():
    """Sign, two bits of exponent (bias 1), one of fraction; the low half of a byte first."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (2, 3, 2, 16), dtype=np.uint8)
    scales = rng.integers(120, 135, (2, 3, 2), dtype=np.uint8)
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    found = given({"x.gate_up_proj_blocks": blocks, "x.gate_up_proj_scales": scales}, config)
    assert found["x.gate_up_proj"].shape == (2, 64, 3)
    for x, row, group, place in np.ndindex(2, 3, 2, 32):
        byte = int(blocks[x, row, group, place // 2])
        bits = byte >> 4 if place % 2 else byte & 15
        sign, exponent, fraction = bits >> 3, bits >> 1 & 3, bits & 1
        size = (1 + fraction / 2) * 2.0 ** (exponent - 1) if exponent else fraction / 2
        wanted = (-1) ** sign * size * 2.0 ** (int(scales[x, row, group]) - 127)
        assert found["x.gate_up_proj"][x, group * 32 + place, row] == wanted


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised (gptq, 4 bits)"),
        ({"quant_method": "awq", "bits": 4}, "quantised (awq"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "quantised (bitsandbytes, 4 bits)",
        ),
        ({"bits": 2}, "by no method that it names"),
    ],
)
def test_what_is_not_turned_back_is_refused_with_the_way_out(said, words):
    with pytest.raises(InputError, match=re.escape(words)) as error:
        given({"a.weight": random(2, 2)}, {"quantization_config": said})
    assert "GGUF" in str(error.value)


def test_fp8_is_read_from_a_file_though_numpy_has_it_not(tmp_path):
    weight, scale = random(4, 3).astype(ml_dtypes.float8_e4m3fn), random(1, 1)
    parts = {"a.weight": ("F8_E4M3", weight), "a.weight_scale_inv": ("F32", scale)}
    header, data = {}, b""
    for name, (kind, x) in parts.items():
        end = len(data) + x.nbytes
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(data), end]}
        data += x.tobytes()
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **FP8}))
    found = read_folder(tmp_path).tensors["a.weight"]
    np.testing.assert_allclose(found, weight.astype(np.float32) * scale, rtol=1e-6)
