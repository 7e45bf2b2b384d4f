"""Settings of a model as a GGUF file states them, in the terms of Hugging Face's config.json.

Most are a renamed key; some follow from others or are constants of llama.cpp that no file states;
Llama 3's position scaling is kept as a tensor.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits_jax.lm.files.gguf_layouts import Config

DECODER_KEYS = {
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
}
RMS_KEYS = {**DECODER_KEYS, "rms_norm_eps": "attention.layer_norm_rms_epsilon"}
OPTIONAL_KEYS = {
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
}
GEMMA_KEYS = {
    **OPTIONAL_KEYS,
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope_local_base_freq": "rope.freq_base_swa",
    "sliding_window_pattern": "attention.sliding_window_pattern",
}

# Settings that are fractions; all others are whole numbers (or true and false).
REAL_SETTINGS = frozenset(
    {
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "rope_theta",
        "rope_local_base_freq",
        "rotary_emb_base",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    }
)
# Settings that may be 0, which turns them off; all others are above 0.
OFF_AT_ZERO = frozenset(
    {
        "sliding_window",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "use_parallel_residual",
    }
)
# Settings that are not read, and the values at which they do nothing; the first is named.
IDLE = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "embedding_scale": (1.0, 0.0),
    "logit_scale": (1.0, 0.0),
    "residual_scale": (1.0, 0.0),
    "rope.scaling.attn_factor": (1.0,),
}
IDLE_AT_HEAD_WIDTH = ("attention.value_length", "rope.dimension_count")  # where heads have one


def _head_dim(config: Config) -> int:
    """Width of a head: stated, or D / H."""
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def _rope_scaling(metadata: Mapping[str, Any]) -> Config:
    """Position scaling that the metadata states: `linear` and `yarn`; other kinds by their name.

    As llama.cpp reads it: a factor of no kind is linear, also by its name of old; 0 is none.
    """
    arch = metadata["general.architecture"]
    of_old = metadata.get(f"{arch}.rope.scale_linear", 0.0)
    metadata = {f"{arch}.rope.scaling.factor": of_old} | dict(metadata)
    kind = metadata.get(f"{arch}.rope.scaling.type", "linear")
    if kind == "none" or (kind == "linear" and not metadata[f"{arch}.rope.scaling.factor"]):
        return {}
    keys = {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    stated = {name: f"{arch}.rope.scaling.{key}" for name, key in keys.items()}
    scaling = {
        name: metadata[key]
        for name, key in stated.items()
        if isinstance(metadata.get(key), int | float)
    }
    return {"rope_scaling": {"rope_type": kind, **scaling}}


def derive_llama(config: Config, metadata: Mapping[str, Any]) -> Config:
    """Head width, grouped heads, position scaling; Mistral is Llama with a sliding window."""
    window = config.get("sliding_window") or None
    slides = config["model_type"] == "llama" and window is not None
    return {
        "model_type": "mistral" if slides else config["model_type"],
        "head_dim": _head_dim(config),
        "num_key_value_heads": config.get("num_key_value_heads", config["num_attention_heads"]),
        "sliding_window": window,
        **_rope_scaling(metadata),
    }


def derive_gemma(config: Config, metadata: Mapping[str, Any]) -> Config:
    """Which layers slide, and the attention scale, which llama.cpp keeps by model size.

    Query-key products are divided by the square root of `query_pre_attn_scalar`: the head width,
    but D / H in the 27B models (46 layers of Gemma 2, 62 of Gemma 3).
    """
    layers, period = config["num_hidden_layers"], config.get("sliding_window_pattern", 1)
    if not config.get("sliding_window"):
        period = 1
    head_dim = _head_dim(config)
    largest = (config["model_type"], layers) in (("gemma2", 46), ("gemma3_text", 62))
    scalar = config["hidden_size"] // config["num_attention_heads"] if largest else head_dim
    kinds = ("sliding_attention", "full_attention")
    return {
        **derive_llama(config, metadata),
        "query_pre_attn_scalar": scalar,
        "layer_types": [kinds[(layer + 1) % period == 0] for layer in range(layers)],
    }


def derive_gpt_neox(config: Config, metadata: Mapping[str, Any]) -> Config:
    """The part of every head that is rotated, position scaling."""
    head_dim = _head_dim(config)
    part = config.get("rotary_ndims", head_dim) / head_dim
    return {"rotary_pct": part, **_rope_scaling(metadata)}


def derive_nothing(config: Config, metadata: Mapping[str, Any]) -> Config:
    """No further settings."""
    return {}


def llama3_scaling(
    factors: Float[np.ndarray, " pairs"], theta: float
) -> dict[str, float | int | str] | None:
    """Recovers Llama 3's position scaling from the frequency divisors that a GGUF file stores.

    Args:
        factors: divisor of each rotary frequency, `rope_freqs.weight`.
        theta: base of the frequencies.

    Returns:
        The `rope_scaling` entry of config.json with the constants of Llama 3.1 to 3.3 (low 1, high
        4, 8192 positions) if it gives these divisors to 1e-3, else None. With wavelength
        w = 2 pi / frequency, s = (8192 / w - 1) / 3 clipped to [0, 1], the divisor is
        1 / ((1 - s) / factor + s).
    """
    factor, low, high, context = float(factors.max()), 1.0, 4.0, 8192
    exponents = np.arange(len(factors)) / len(factors)
    wavelengths = 2 * math.pi * theta**exponents
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    if not np.allclose(1 / ((1 - smooth) / factor + smooth), factors, rtol=1e-3):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }
