"""Every family against Hugging Face: configs, weights, logits, every head's output; bad input."""

import dataclasses
import functools
import importlib.util
import json
import re
import weakref
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.decoder import Attention, Decoder, TokenBatch, initial_params
from circuits_jax.lm.families.families import (
    FAMILIES,
    is_finite,
    read_config,
    read_params,
    with_stored_head,
)
from circuits_jax.lm.files.checkpoints import RawCheckpoint
from circuits_jax.runs.errors import InputError

GOLDENS = Path(__file__).parents[2] / "goldens" / "circuits"
SPEC = importlib.util.spec_from_file_location("goldens", GOLDENS / "make_decoder_goldens.py")
MAKER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAKER)
ALL_CASES = [*MAKER.CASES, *MAKER.MORE_CASES]
LENGTH = 15  # of the batch: longer than the prompts, so that both are padded


@functools.cache
def golden(name):
    """(meta, logits [T V], heads [Q L H D]) of a case."""
    files = {"decoder": MAKER.CASES, "families": MAKER.MORE_CASES, "drawn": MAKER.DRAWN}
    stem = next(stem for stem, cases in files.items() if name in cases)
    with np.load(GOLDENS / f"{stem}.npz") as file:
        meta = json.loads(str(file[f"{name}/meta"]))
        return meta, file[f"{name}/logits"], file[f"{name}/heads"]


def checkpoint(name, tensors=None, **changes):
    """The checkpoint of a case, with config fields changed; "-" removes a field."""
    meta, _, _ = golden(name)
    config = {k: v for k, v in (meta["config"] | changes).items() if k not in changes or v != "-"}
    if tensors is None:
        tensors = MAKER.weights(meta["shapes"], meta.get("seed", 0))
    return RawCheckpoint(config=config, tensors=tensors, name=name, source="tiny")


def batch_of_prompts():
    """Both prompts padded on the right, then both on the left: [4, LENGTH]."""
    rows, masks = [], []
    for left in (False, True):
        for prompt in MAKER.PROMPTS:
            pad = (LENGTH - len(prompt), 0) if left else (0, LENGTH - len(prompt))
            rows.append(np.pad(prompt, pad, constant_values=1))
            masks.append(np.pad(np.ones(len(prompt), bool), pad))
    return TokenBatch(jnp.array(rows), jnp.array(masks))


# Compiling is what takes the time of these tests, so the compiler is told to try less.
@functools.partial(
    jax.jit, static_argnames="config", compiler_options={"xla_backend_optimization_level": 0}
)
def run(config, params, batch):
    """Logits [B T V], and head outputs z W_O [B T L H D] by intercepting `Attention.attend`."""

    def interceptor(call, args, kwargs, context):
        z = call(*args, **kwargs)
        if isinstance(context.module, Attention) and context.method_name == "attend":
            context.module.sow("heads", "z", z)
        return z

    with nn.intercept_methods(interceptor):
        logits, state = Decoder(config).apply({"params": params}, batch, mutable=["heads"])
    (z,) = state["heads"]["layers"]["attention"]["z"]
    w_o = params["layers"]["attention"]["o"]
    return logits, jnp.einsum("lbthk,lhkd->btlhd", z, w_o)


def relative_errors(name, dtype):
    """(logits, heads): for each padding, largest difference over largest golden value."""
    return errors_of(checkpoint(name), *golden(name)[1:], dtype)


def errors_of(raw, want_logits, want_heads, dtype="float32"):
    """`relative_errors` of a checkpoint."""
    config = read_config(raw.config, raw.source)
    batch = batch_of_prompts()
    logits, heads = run(config, read_params(raw, config, dtype), batch)
    mask, logits = np.asarray(batch.mask), np.asarray(logits)
    heads = np.asarray(heads.astype(jnp.float32))
    want_heads = want_heads * raw.config.get("residual_multiplier", 1.0)  # Granite: what they write
    errors = []
    for side in (slice(0, 2), slice(2, 4)):
        real_heads = [
            h[m][list(at)]
            for h, m, at in zip(heads[side], mask[side], MAKER.HEAD_POSITIONS, strict=True)
        ]
        pairs = (logits[side][mask[side]], want_logits), (np.concatenate(real_heads), want_heads)
        errors.append([np.abs(got - want).max() / np.abs(want).max() for got, want in pairs])
    return np.array(errors)


@pytest.mark.parametrize("name", ALL_CASES)
def test_logits_and_head_outputs_equal_hugging_face(name):
    assert relative_errors(name, "float32").max() < 1e-5


@pytest.mark.parametrize("name", MAKER.DRAWN)
def test_features_in_combination_equal_hugging_face(name):
    """Other widths, other weights; `tests/bench/families.py` draws more."""
    assert relative_errors(name, "float32").max() < 1e-5


def test_a_golden_stays_while_its_config_does():
    changed = MAKER.MORE_CASES | {"arcee": MAKER.MORE_CASES["arcee"] | {"head_dim": 6}}
    assert set(MAKER.kept(GOLDENS / "families.npz", changed)) == set(changed) - {"arcee"}


def test_what_is_multiplied_on_its_way_is_multiplied_in_the_weights():
    """Granite's residual multiplier is part of what its heads write."""
    raw = checkpoint("granite")
    config, params = parameters(raw)
    written = params["layers"]["attention"]["o"][1].reshape(-1, config.d_model).T
    stored = raw.tensors["model.layers.1.self_attn.o_proj.weight"]
    np.testing.assert_allclose(written, stored * raw.config["residual_multiplier"], rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma3_text"])
def test_bfloat16_is_near_float32(name):
    """Eight bits of mantissa, two or three layers: within 8% of the largest value."""
    errors = relative_errors(name, "bfloat16")
    assert 1e-4 < errors.max() < 0.08


@pytest.mark.parametrize("name", ALL_CASES)
def test_config_as_written_and_as_saved_by_transformers_5_agree(name):
    meta, _, _ = golden(name)
    assert read_config(meta["config"], "a") == read_config(meta["saved_config"], "b")


@pytest.mark.parametrize("name", MAKER.CASES)
def test_tree_and_shapes_are_those_of_initial_params(name):
    raw = checkpoint(name)
    config = read_config(raw.config, raw.source)
    want = jax.eval_shape(lambda key: initial_params(config, key), jax.random.key(0))
    got = read_params(raw, config, "bfloat16")
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(lambda leaf: leaf.shape, want)
    for path, leaf in traverse_util.flatten_dict(got, sep="/").items():
        is_norm = path.endswith(("norm/scale", "norm/bias"))
        assert leaf.dtype == ("float32" if is_norm else "bfloat16"), path


def test_every_family_has_a_case():
    assert {golden(name)[0]["config"]["model_type"] for name in ALL_CASES} == {
        *FAMILIES,
        "gemma3",
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("gpt2", "transformer.", ""),
        ("llama", "model.", ""),
        ("opt", "model.decoder.", "decoder."),
        ("gpt_neox", "gpt_neox.", ""),
        ("gpt_neox", "embed_out.", "lm_head."),
        ("gemma3", "language_model.model.", "model.language_model."),
        ("gemma3", "vision_tower.", "model.vision_tower."),
    ],
)
def test_prefixes_make_no_difference(name, old, new):
    raw = checkpoint(name)
    config = read_config(raw.config, raw.source)
    renamed = {re.sub(f"^{re.escape(old)}", new, key): t for key, t in raw.tensors.items()}
    assert renamed.keys() != raw.tensors.keys()
    other = read_params(checkpoint(name, renamed), config)
    jax.tree.map(np.testing.assert_array_equal, read_params(raw, config), other)


def rotary(name, layer=0):
    """The frequencies that a case computes with."""
    raw = checkpoint(name)
    config = read_config(raw.config, raw.source)
    return np.array(config.rotary_frequencies[config.layer_kinds[layer]], np.float32)


def parameters(raw):
    """As `load_model` reads them."""
    config = with_stored_head(raw, read_config(raw.config, raw.source))
    return config, read_params(raw, config)


# What old versions store beside the weights: true to what is computed, and changed in one place.
BUFFERS = [
    ("gpt2", "transformer.h.1.attn.bias", np.tri(24, dtype=np.uint8)[None, None]),
    ("gpt2", "h.0.attn.masked_bias", np.array(-1e9, np.float32)),
    ("gpt_neox", "gpt_neox.layers.0.attention.bias", np.tri(24, dtype=bool)[None, None]),
    ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias", np.array(-1e9, np.float32)),
    ("gpt_neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq", rotary("gpt_neox")),
    ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", rotary("llama").astype(np.float16)),
    ("llama", "model.rotary_emb.inv_freq", rotary("llama").astype(ml_dtypes.bfloat16)),
]


@pytest.mark.parametrize(("name", "buffer", "value"), BUFFERS)
def test_known_buffers_are_passed_over_where_they_are_what_is_computed(name, buffer, value):
    raw = checkpoint(name)
    more = checkpoint(name, {**raw.tensors, buffer: value})
    jax.tree.map(np.testing.assert_array_equal, parameters(raw)[1], parameters(more)[1])
    for wrong in (np.nan, 0.75, 2):
        other = value.astype(np.float32)
        other.flat[-1] = wrong
        changed = checkpoint(name, {**raw.tensors, buffer: other})
        with pytest.raises(InputError, match=re.escape(f"tensor {buffer!r} has no place")):
            parameters(changed)


def test_masks_that_let_tokens_see_later_ones_are_refused():
    raw = checkpoint("gpt2")
    for mask in (np.ones((24, 24)), np.tri(24).T, np.tri(24)[:12], np.array(1.0)):
        with pytest.raises(InputError, match=r"'h\.0\.attn\.bias'"):
            parameters(checkpoint("gpt2", {**raw.tensors, "h.0.attn.bias": mask}))


HEADS = {"gpt_neox": "embed_out.weight", "gpt_neox_sequential": "embed_out.weight"}


@pytest.mark.parametrize("name", MAKER.CASES)
def test_a_stored_head_is_the_models_whatever_the_config_says_of_tying(name):
    """As transformers 5: another one than the embedding is used, an equal one may be left out."""
    wrapped = name == "gemma3"
    raw = checkpoint(name, tie_word_embeddings=True)
    if wrapped:
        text = raw.config["text_config"] | {"tie_word_embeddings": True}
        raw = dataclasses.replace(raw, config=raw.config | {"text_config": text})
    prefix = "language_model." if wrapped else ""
    head = prefix + HEADS.get(name, "lm_head.weight")
    rest = {n: t for n, t in raw.tensors.items() if n != head}
    (embedding,) = (t for n, t in rest.items() if re.search(r"(embed_tokens|wte|embed_in)\.", n))
    noise = np.random.default_rng(0).standard_normal(embedding.shape).astype(np.float32)
    other = embedding + 0.3 * noise

    tied, params = parameters(dataclasses.replace(raw, tensors=rest))
    equal, same = parameters(dataclasses.replace(raw, tensors=rest | {head: embedding}))
    assert tied == equal
    assert tied.tied
    jax.tree.map(np.testing.assert_array_equal, params, same)

    config, params = parameters(dataclasses.replace(raw, tensors=rest | {head: other}))
    assert config == dataclasses.replace(tied, tied=False)
    np.testing.assert_array_equal(params["unembedding"], other.T)
    np.testing.assert_array_equal(params["embedding"], embedding)
    with pytest.raises(InputError, match=re.escape(f"tensor {head!r} has no place")):
        read_params(dataclasses.replace(raw, tensors=rest | {head: other}), tied)


def test_the_logits_are_those_of_the_stored_head():
    """Of a model that is the same but for what its config says of tying."""
    raw = checkpoint("llama")
    said = checkpoint("llama", tie_word_embeddings=True)
    batch = batch_of_prompts()
    logits = [run(*parameters(one), batch)[0] for one in (raw, said)]
    np.testing.assert_array_equal(*logits)


def test_of_two_tied_tensors_either_one_is_enough():
    raw = checkpoint("llama_options")
    moved = {n.replace("model.embed_tokens", "lm_head"): t for n, t in raw.tensors.items()}
    assert moved.keys() != raw.tensors.keys()
    both = parameters(raw)[1], parameters(checkpoint("llama_options", moved))[1]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_two_tensors_for_one_parameter_are_refused():
    raw = checkpoint("llama")
    twice = {**raw.tensors, "norm.weight": raw.tensors["model.norm.weight"]}
    with pytest.raises(InputError, match=r"'model.norm.weight' and 'norm.weight' are both there"):
        parameters(checkpoint("llama", twice))


def test_images_have_no_place_in_a_model_of_text():
    raw = checkpoint("llama")
    more = {**raw.tensors, "vision_tower.patch.weight": np.ones((2, 2), np.float32)}
    with pytest.raises(InputError, match=r"'vision_tower.patch.weight' has no place"):
        parameters(checkpoint("llama", more))


def places(n):
    """n places drawn from all numbers of all tensors of all families, every tensor as likely."""
    rng = np.random.default_rng(5)
    tensors = [(case, tensor) for case in MAKER.CASES for tensor in golden(case)[0]["shapes"]]
    tensors = [(case, tensor) for case, tensor in tensors if "vision" not in tensor]
    for index in rng.permutation(len(tensors))[:n]:
        case, tensor = tensors[index]
        wrong = (np.nan, np.inf, -np.inf)[rng.integers(3)]
        yield case, tensor, int(rng.integers(np.prod(golden(case)[0]["shapes"][tensor]))), wrong


def test_a_number_that_is_not_finite_is_told_with_its_tensor():
    told = set()
    for case, tensor, place, wrong in places(60):
        dtype = ("float32", "bfloat16")[place % 2]
        raw = checkpoint(case)
        if "multi_modal" in tensor:
            continue
        raw.tensors[tensor].flat[place] = wrong
        config = with_stored_head(raw, read_config(raw.config, raw.source))
        with pytest.raises(InputError) as error:
            read_params(raw, config, dtype)
        assert str(error.value).startswith(f"tiny: tensor {tensor!r} has a number that is not")
        told.add((case, tensor))
    assert len(told) >= 50


@pytest.mark.parametrize(
    ("stored", "dtype", "largest"),
    [
        (np.float64, "float32", 1e39),
        (np.float32, "bfloat16", 3.4e38),
        (np.float16, "float32", np.inf),
        (ml_dtypes.bfloat16, "bfloat16", np.nan),
    ],
)
def test_a_number_too_large_for_the_type_is_told(stored, dtype, largest):
    raw = checkpoint("llama")
    raw.tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 0
    bad = raw.tensors["model.layers.1.mlp.up_proj.weight"].astype(stored)
    bad[3, 5] = largest
    tensors = {**raw.tensors, "model.layers.1.mlp.up_proj.weight": bad}
    config = read_config(raw.config, raw.source)
    with pytest.raises(InputError, match=rf"'model.layers.1.mlp.up_proj.weight'.*in {dtype}"):
        read_params(checkpoint("llama", tensors), config, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_is_finite(dtype):
    largest = float(jnp.finfo(dtype).max)
    numbers = np.array([0.0, -0.0, 1.0, -1.0, largest, -largest, 1e-40, -1e-40]).astype(dtype)
    assert is_finite(numbers)
    for wrong in (np.nan, -np.nan, np.inf, -np.inf):
        for place in range(len(numbers)):
            bad = numbers.copy()
            bad[place] = wrong
            assert not is_finite(bad)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8_e4m3fn", "bool"])
def test_numbers_that_need_a_scale_to_mean_something_are_refused(dtype):
    raw = checkpoint("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {**raw.tensors, name: raw.tensors[name].astype(dtype)}
    with pytest.raises(InputError, match=f"'{name}' is stored as {dtype}; allowed: float32"):
        parameters(checkpoint("llama", tensors))


class Counting(Mapping):
    """Copies a tensor on access and keeps count of the copies alive."""

    def __init__(self, tensors):
        self.tensors, self.alive, self.most = tensors, weakref.WeakSet(), 0

    def __getitem__(self, name):
        copy = Counted(self.tensors[name].shape, np.float32)
        copy[...] = self.tensors[name]
        self.alive.add(copy)
        self.most = max(self.most, len(self.alive))
        return copy

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


class Counted(np.ndarray):
    """An array that can stand in a WeakSet."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def test_one_tensor_is_held_at_a_time():
    raw = checkpoint("gpt2")
    tensors = Counting(raw.tensors)
    read_params(checkpoint("gpt2", tensors), read_config(raw.config, "tiny"))
    assert tensors.most == 1


def test_fused_queries_keys_and_values_are_split_as_their_models_do():
    """x W for the fused W, split by head as each model's forward does, equals x with our W."""
    x = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    for name, tensor in (
        ("gpt2", "transformer.h.1.attn.c_attn.weight"),
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight"),
    ):
        raw = checkpoint(name)
        params = read_params(raw, read_config(raw.config, "tiny"))
        ours = {n: jnp.einsum("d,dhk->hk", x, params["layers"]["attention"][n][1]) for n in "qkv"}
        fused = raw.tensors[tensor]
        split = (
            dict(zip("qkv", (x @ fused).reshape(3, 4, 8), strict=True))
            if name == "gpt2"
            else dict(zip("qkv", (fused @ x).reshape(4, 3, 8).swapaxes(0, 1), strict=True))
        )
        for n in "qkv":
            np.testing.assert_allclose(ours[n], split[n], rtol=1e-5, atol=1e-6)


def test_windows_follow_the_layer_types():
    def windows(name, **changes):
        raw = checkpoint(name, **changes)
        return read_config(raw.config, "tiny").windows

    assert windows("mistral") == (4, 4)
    assert windows("mistral", sliding_window=None) == (NO_WINDOW, NO_WINDOW)
    assert windows("mistral", sliding_window="-") == (4096, 4096)
    assert windows("qwen2") == (NO_WINDOW, 4)
    assert windows("qwen2", use_sliding_window=False) == (NO_WINDOW, NO_WINDOW)
    assert windows("qwen2", max_window_layers=0) == (4, 4)
    assert windows("gemma2") == (4, NO_WINDOW, 4)
    assert windows("gemma3_text") == (4, 4, NO_WINDOW)
    full = ["full_attention"] * 3
    assert windows("gemma3_text", layer_types=full) == (NO_WINDOW,) * 3


def test_gemma3_defaults_fill_what_published_configs_leave_out():
    """The text_config of gemma-3-4b-it, which names six fields only."""
    config = read_config(
        {
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        },
        "tiny",
    )
    assert (config.heads, config.n_kv_heads, config.head_width) == ((34, 8), 4, 256)
    assert (config.vocab_size, config.n_positions, config.tied) == (262_208, 131_072, True)
    assert config.windows.count(NO_WINDOW) == 5
    local, whole = config.rotary_frequencies
    np.testing.assert_allclose([local[0], whole[0]], [1, 1 / 8])
    np.testing.assert_allclose(
        [local[-1], whole[-1]], [1e4 ** -(254 / 256), 1e6 ** -(254 / 256) / 8]
    )


LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"model_type": "lama"}, ["'lama'", "did you mean 'llama'", "gemma3_text, glm"]),
        ("llama", {"model_type": "-"}, ["model_type 'None'", "allowed"]),
        ("llama", {"hidden_size": "-"}, ["'hidden_size'", "missing", "llama"]),
        ("llama", {"hidden_size": "wide"}, ["'hidden_size'", "'wide'", "whole numbers"]),
        ("llama", {"num_hidden_layers": 0}, ["'num_hidden_layers'", "0", "above 0"]),
        ("llama", {"rms_norm_eps": "tiny"}, ["'rms_norm_eps'", "a number"]),
        ("llama", {"rms_norm_eps": float("nan")}, ["'rms_norm_eps'", "nan", "0 or above"]),
        ("llama", {"rms_norm_eps": -1e-5}, ["'rms_norm_eps'", "-1e-05", "0 or above"]),
        ("llama", {"rope_theta": float("inf")}, ["'rope_theta'", "inf"]),
        ("llama", {"rope_scaling": LINEAR | {"factor": float("inf")}}, ["'factor'", "inf"]),
        ("gemma2", {"attn_logit_softcapping": float("nan")}, ["_softcapping'", "nan"]),
        ("gemma2", {"query_pre_attn_scalar": 0}, ["'query_pre_attn_scalar'", "above 0"]),
        ("llama", {"hidden_act": "mish"}, ["'hidden_act'", "'mish'", "silu"]),
        ("llama", {"num_key_value_heads": 3}, ["'num_key_value_heads'", "3", "divisors", "4"]),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5}, ["32", "5 heads"]),
        ("llama", {"head_dim": 7}, ["7 rotary components"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["'partial_rotary_factor'", "0.5", "1.0"]),
        (
            "llama",
            {"rope_scaling": {"rope_type": "proportional", "factor": 2.0}},
            ["rope_type 'proportional'", "default, dynamic, linear, llama3, yarn, longrope"],
        ),
        ("llama", {"rope_scaling": {"rope_type": "llama3"}}, ["'llama3'", "'low_freq_factor'"]),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, ["'linear'", "'factor'"]),
        ("llama", {"rope_scaling": LINEAR | {"factor": "two"}}, ["'factor'", "'two'", "above 0"]),
        ("llama", {"rope_scaling": LINEAR | {"factor": 0}}, ["'factor'", "0", "above 0"]),
        ("llama", {"rope_scaling": "linear"}, ["'rope_scaling'", "'linear'"]),
        ("gpt2", {"n_head": "-"}, ["'n_head'", "missing"]),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ["_inverse_layer_idx'", "False"]),
        ("gpt2", {"add_cross_attention": True}, ["'add_cross_attention'", "False"]),
        ("opt", {"do_layer_norm_before": False}, ["'do_layer_norm_before'", "True"]),
        ("opt", {"word_embed_proj_dim": 16}, ["'word_embed_proj_dim'", "16", "32"]),
        ("opt", {"layer_norm_elementwise_affine": False}, ["elementwise_affine'", "True"]),
        ("opt", {"_remove_final_layer_norm": True}, ["'_remove_final_layer_norm'", "False"]),
        ("qwen3", {"layer_types": ["full_attention"]}, ["'layer_types'", "2 entries"]),
        ("qwen3", {"layer_types": ["full_attention", "chunked"]}, ["'layer_types'", "chunked"]),
        ("qwen3", {"sliding_window": "-"}, ["'sliding_window'", "missing"]),
        ("gemma2", {"use_bidirectional_attention": True}, ["'use_bidirectional_attention'"]),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, ["'attn_logit_softcapping'", "None"]),
        ("gemma3_text", {"rope_parameters": LINEAR}, ["'rope_parameters'", "sliding_attention"]),
        ("gemma3", {"text_config": 3}, ["'text_config'", "3"]),
        ("gemma3", {"text_config": {"model_type": "opt"}}, ["text_config: ", "'gemma3_text'"]),
    ],
)
def test_bad_configs_are_refused_in_one_sentence(name, changes, words):
    raw = checkpoint(name, **changes)
    with pytest.raises(InputError) as error:
        read_config(raw.config, raw.source)
    message = str(error.value)
    assert message.startswith("tiny: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: without(t, "model.norm.weight", "model.layers.1.mlp.up_proj.weight"),
            ["missing", "'model.", "2 of the 21"],
        ),
        (lambda t: without(t, "lm_head.weight"), ["'lm_head.weight' is missing", "1 of the 21"]),
        (
            lambda t: {**t, "model.norm.weight": np.ones(31)},
            ["'model.norm.weight'", "[31]", "[32]"],
        ),
        (
            lambda t: {
                **t,
                "model.layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.up_proj.weight"].T,
            },
            ["'model.layers.0.mlp.up_proj.weight'", "[32, 40]", "[40, 32]"],
        ),
        (
            lambda t: {**t, "model.layers.0.self_attn.q_proj.bias": np.ones(32)},
            ["'model.layers.0.self_attn.q_proj.bias'", "no place", "llama"],
        ),
        (
            lambda t: {**t, "model.layers.2.mlp.up_proj.weight": np.ones((40, 32))},
            ["'model.layers.2.mlp.up_proj.weight'", "no place"],
        ),
    ],
)
def test_bad_tensors_are_refused_in_one_sentence(change, words):
    raw = checkpoint("llama")
    config = read_config(raw.config, raw.source)
    with pytest.raises(InputError) as error:
        read_params(checkpoint("llama", change(raw.tensors)), config)
    assert str(error.value).startswith("tiny: ")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_other_dtypes_are_refused():
    raw = checkpoint("llama")
    with pytest.raises(InputError, match=r"'float16'.*float32, bfloat16"):
        read_params(raw, read_config(raw.config, "tiny"), "float16")


def test_tables_have_what_every_decoder_needs():
    for name, family in FAMILIES.items():
        paths = {row.path for row in family.rows}
        assert {"embedding", "unembedding", "layers/attention/q", "layers/mlp/down"} <= paths, name


def test_experts_may_be_stored_one_by_one_or_together():
    """As published, and as transformers 5 holds them."""
    raw = checkpoint("qwen3_moe")
    config, params = parameters(raw)
    together = dict(raw.tensors)
    for layer in range(config.n_layers):
        here = f"model.layers.{layer}.mlp.experts."
        parts = {
            n: np.stack([together.pop(f"{here}{x}.{n}_proj.weight") for x in range(5)])
            for n in ("gate", "up", "down")
        }
        together[f"{here}gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=1)
        together[f"{here}down_proj"] = parts["down"]
    other = parameters(checkpoint("qwen3_moe", together))[1]
    jax.tree.map(np.testing.assert_array_equal, params, other)


@pytest.mark.parametrize("before", ["_orig_mod.", "module.", "module._orig_mod."])
def test_words_that_training_puts_before_names_make_no_difference(before):
    raw = checkpoint("smollm3")
    renamed = {before + name: tensor for name, tensor in raw.tensors.items()}
    other = parameters(checkpoint("smollm3", renamed))[1]
    jax.tree.map(np.testing.assert_array_equal, parameters(raw)[1], other)


@pytest.mark.parametrize(
    ("model_type", "words", "proposed"),
    [
        ("llama4", ["'llama4' is not supported"], False),
        ("mamba2", ["recurrent or state-space"], False),
        ("qwen3_next", ["recurrent or state-space"], False),
        ("qwen_3", ["unknown model_type"], True),
    ],
)
def test_a_name_is_proposed_for_a_mistyped_type_alone(model_type, words, proposed):
    raw = checkpoint("llama", model_type=model_type)
    with pytest.raises(InputError) as error:
        read_config(raw.config, raw.source)
    assert all(word in str(error.value) for word in words)
    assert ("did you mean" in str(error.value)) == proposed
