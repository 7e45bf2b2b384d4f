"""Every family against Hugging Face: configs, weights, logits, every head's output; bad numbers."""

import dataclasses
import functools
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
from tests.goldens.circuits import make_decoder_goldens as MAKER

GOLDENS = Path(__file__).parents[2] / "goldens" / "circuits"
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
    readme = (GOLDENS.parents[2] / "README.md").read_text()
    assert f"{len(FAMILIES)} families of decoders" in readme


def parameters(raw):
    """As `load_model` reads them."""
    config = with_stored_head(raw, read_config(raw.config, raw.source))
    return config, read_params(raw, config)


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


def test_other_dtypes_are_refused():
    raw = checkpoint("llama")
    with pytest.raises(InputError, match=r"'float16'.*float32, bfloat16"):
        read_params(raw, read_config(raw.config, "tiny"), "float16")
