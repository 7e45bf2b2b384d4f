"""Configs as files have them: windows, defaults, and what is refused in one sentence."""

import contextlib
import dataclasses

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.lm.families.families import FAMILIES, read_config
from circuits_jax.runs.errors import InputError
from tests.circuits.lm.test_families import checkpoint


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


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_a_config_leaves_out_is_what_hugging_face_takes_for_it(model_type):
    """Field by field, of all that the family's class writes; also `null`, where it takes that."""
    config = AutoConfig.for_model(model_type)
    whole = config.to_dict()

    def read(fields):
        try:
            return dataclasses.astuple(read_config(fields, "tiny"))
        except InputError as error:
            return str(error)

    given = set(whole) - {"model_type"}
    for name in given:
        left_out = read({field: value for field, value in whole.items() if field != name})
        assert left_out == read(whole) or f"{name!r} is missing" in left_out, name
    for name in given & {"num_key_value_heads", "head_dim"}:
        with contextlib.suppress(StrictDataclassFieldValidationError):
            filled_in = AutoConfig.for_model(model_type, **{name: None}).to_dict()
            assert read(whole | {name: None}) == read(filled_in), name


SCALED = {
    "yarn": {"factor": 4.0},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox", "starcoder2"])
def test_a_context_outside_of_the_scaling_goes_first(name, kind):
    """As in transformers 5; 16 positions inside would give other frequencies."""
    scaling = SCALED[kind] | {"rope_type": kind}

    def read(inside, **outside):
        changes = {"rope_scaling": scaling | {"original_max_position_embeddings": inside}}
        raw = checkpoint(name, **changes, max_position_embeddings=16384, **outside)
        return read_config(raw.config, "tiny").rotary_frequencies

    assert read(16, original_max_position_embeddings=4096) == read(4096)
    assert read(16) != read(4096)


def test_phi3_scales_from_its_own_context_or_4096():
    def read(inside, **outside):
        rope = {"rope_type": "longrope", "short_factor": [1.0, 2.0, 3.0]}
        rope |= {"long_factor": [2.0, 3.0, 4.0]} | inside
        changes = {"rope_scaling": rope, "max_position_embeddings": 8192}
        return read_config(checkpoint("phi3", **changes, **outside).config, "tiny")

    inner = {"original_max_position_embeddings": 64}
    assert read(inner) == read({}) != read(inner, original_max_position_embeddings=64)


def test_gpt_neo_takes_the_names_that_others_have():
    def read(**changes):
        return read_config(checkpoint("gpt_neo", **changes).config, "tiny")

    renamed = {"num_heads": "-", "num_layers": "-", "num_hidden_layers": 3}
    assert read(**renamed, num_attention_heads=read().n_heads) == read()


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
        ("llama", {"is_causal": False}, ["'is_causal'", "False", "True"]),
        ("gpt_neox", {"rope_theta": 100.0}, ["'rope_theta'", "100.0", "500.0"]),
        ("gpt_neox", {"partial_rotary_factor": 0.75}, ["'partial_rotary_factor'", "0.75"]),
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
