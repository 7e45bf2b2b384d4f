"""Tensors as files have them: other names and layouts, what is passed over, what is refused."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from circuits_jax.lm.families.families import FAMILIES, read_config, read_params
from circuits_jax.runs.errors import InputError
from tests.circuits.lm.test_families import checkpoint, parameters


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
