"""A tiny random language model that knows words, for the tests of several modules."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, pre_tokenizers

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import initial_params
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.tasks import GroundTruth, PromptPairs, Task

NAMES = ("Ann", "Bob", "Cid", "Dee", "Eve", "Fay", "Gus", "Hal")
WORDS = ("[UNK]", "when", "and", "went", "out", "then", "gave", "it", "to", *NAMES)
CONFIG = DecoderConfig(
    family="llama",
    vocab_size=len(WORDS),
    n_positions=24,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    head_width=4,
    d_model=16,
    d_mlp=24,
    norm="rms",
    activation="silu",
    attention_scale=0.5,
    gated_mlp=True,
    out_bias=True,
    tied=True,
    rotary_width=4,
    rotary_frequencies=((1.0, 0.1),),
)


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """The part of a Hugging Face tokenizer that the library uses."""

    inner: tokenizers.Tokenizer

    def __call__(self, text, *, add_special_tokens=True):
        return SimpleNamespace(input_ids=self.inner.encode(text).ids)

    def decode(self, token_ids):
        return self.inner.decode(list(token_ids))

    def __len__(self):
        return self.inner.get_vocab_size()


@functools.cache
def word_tokenizer():
    numbers = {word: number for number, word in enumerate(WORDS)}
    inner = tokenizers.Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return WordTokenizer(inner)


@functools.cache
def model(config=CONFIG, name="tiny"):
    """Random parameters, large enough for every part to matter; norms near 1."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda key: initial_params(config, key), jax.random.key(0))

    def one(path, leaf):
        noise = 0.4 * rng.standard_normal(leaf.shape, np.float32)
        return jax.device_put(noise + (path[-1].key == "scale"))

    params = jax.tree_util.tree_map_with_path(one, shapes)
    return LanguageModel(name, config, params, word_tokenizer())


def with_attention(model, **tensors):
    """The model with other attention parameters, such as `o` [L H K D]."""
    layers = model.params["layers"]
    layers = layers | {"attention": layers["attention"] | tensors}
    return dataclasses.replace(model, params=model.params | {"layers": layers})


def pairs(n, seed=0):
    """n rows (positive, negative, answer, foil) of distinct prompts about two or three names."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation([(a, b) for a in range(8) for b in range(8) if a != b])[:n]
    rows = []
    for a, b in chosen:
        c = next(c for c in rng.permutation(8) if c not in (a, b))
        first, second, third = NAMES[a], NAMES[b], NAMES[c]
        start = f"when {first} and {second} went out then"
        rows.append((f"{start} {second} gave it to", f"{start} {third} gave it to", first, second))
    return rows


def prompt_pairs(rows):
    numbers = {word: number for number, word in enumerate(WORDS)}
    positives, negatives, answers, foils = zip(*rows, strict=True)
    return PromptPairs(
        positives,
        negatives,
        *(tuple((numbers[word],) for word in words) for words in (answers, foils)),
    )


def task(n=3, n_held_out=4, truths=()):
    both = prompt_pairs(pairs(n + n_held_out))
    return Task("names", "logit_diff", both[:n], both[n:], truths)


def truth(heads, model="tiny", name="by hand"):
    return GroundTruth("names", model, name, frozenset(heads), "this file")


def write_model(folder, seed=0, n_positions=24):
    """A Llama of the same shape as a Hugging Face folder, written without the library."""
    c = dataclasses.replace(CONFIG, n_positions=n_positions)
    rng = np.random.default_rng(seed)

    def random(*shape):
        return (0.4 * rng.standard_normal(shape)).astype(np.float32)

    heads, kv_heads = c.n_heads * c.head_width, c.n_kv_heads * c.head_width
    tensors = {
        "model.embed_tokens.weight": random(c.vocab_size, c.d_model),
        "model.norm.weight": np.ones(c.d_model, np.float32),
    }
    for layer in range(c.n_layers):
        here = f"model.layers.{layer}."
        tensors |= {
            f"{here}input_layernorm.weight": np.ones(c.d_model, np.float32),
            f"{here}post_attention_layernorm.weight": np.ones(c.d_model, np.float32),
            f"{here}self_attn.q_proj.weight": random(heads, c.d_model),
            f"{here}self_attn.k_proj.weight": random(kv_heads, c.d_model),
            f"{here}self_attn.v_proj.weight": random(kv_heads, c.d_model),
            f"{here}self_attn.o_proj.weight": random(c.d_model, heads),
            f"{here}mlp.gate_proj.weight": random(c.d_mlp, c.d_model),
            f"{here}mlp.up_proj.weight": random(c.d_mlp, c.d_model),
            f"{here}mlp.down_proj.weight": random(c.d_model, c.d_mlp),
        }
    config = {
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.n_positions,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_mlp,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    word_tokenizer().inner.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    return folder


def write_task(path, rows):
    """The rows of `pairs` as JSON lines."""
    fields = ("positive", "negative", "answer", "foil")
    lines = [
        json.dumps(dict(zip(fields, (p, n, f" {a}", f" {f}"), strict=True))) for p, n, a, f in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
