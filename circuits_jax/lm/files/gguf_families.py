"""Tables from GGUF's tensor names and settings back to Hugging Face's, one a family.

A `{}` in a name stands for the number of the layer.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from circuits_jax.lm.files import gguf_settings as settings
from circuits_jax.lm.files.gguf_layouts import (
    Config,
    Transform,
    as_stored,
    heads_first,
    key_rows,
    minus_one,
    query_rows,
    transposed,
)


@dataclasses.dataclass(frozen=True)
class GgufFamily:
    """How one GGUF architecture reads.

    Attributes:
        constants: entries of config.json that the file leaves implicit or may state otherwise.
        required: key of config.json -> key of the metadata, without the architecture's prefix.
        optional: the same for keys that may be absent.
        tensors: GGUF name -> Hugging Face name and the change of layout to undo.
        derive: entries of config.json that follow from the others and from the metadata.
    """

    constants: Mapping[str, Any]
    required: Mapping[str, str]
    optional: Mapping[str, str]
    tensors: Mapping[str, tuple[str, Transform]]
    derive: Callable[[Config, Mapping[str, Any]], Config]


def _with_parts(tensors: Mapping[str, tuple[str, Transform]], *parts: str) -> dict:
    """A table of full names from one of stems, for the weights and biases of each stem."""
    return {
        f"{stem}.{part}": (f"{name}.{part}", transform)
        for stem, (name, transform) in tensors.items()
        for part in parts
    }


_LAYER = "model.layers.{}."
_PROJECTIONS = {
    "blk.{}.attn_q": (_LAYER + "self_attn.q_proj", as_stored),
    "blk.{}.attn_k": (_LAYER + "self_attn.k_proj", as_stored),
    "blk.{}.attn_v": (_LAYER + "self_attn.v_proj", as_stored),
    "blk.{}.attn_output": (_LAYER + "self_attn.o_proj", as_stored),
    "blk.{}.ffn_gate": (_LAYER + "mlp.gate_proj", as_stored),
    "blk.{}.ffn_up": (_LAYER + "mlp.up_proj", as_stored),
    "blk.{}.ffn_down": (_LAYER + "mlp.down_proj", as_stored),
}
_EMBEDDINGS = _with_parts(
    {"token_embd": ("model.embed_tokens", as_stored), "output": ("lm_head", as_stored)}, "weight"
)
_NORMS = {
    "output_norm": ("model.norm", as_stored),
    "blk.{}.attn_norm": (_LAYER + "input_layernorm", as_stored),
    "blk.{}.ffn_norm": (_LAYER + "post_attention_layernorm", as_stored),
}
_QK_NORMS = {
    "blk.{}.attn_q_norm": (_LAYER + "self_attn.q_norm", as_stored),
    "blk.{}.attn_k_norm": (_LAYER + "self_attn.k_norm", as_stored),
}
_LLAMA_PROJECTIONS = {
    **_PROJECTIONS,
    "blk.{}.attn_q": (_LAYER + "self_attn.q_proj", query_rows),
    "blk.{}.attn_k": (_LAYER + "self_attn.k_proj", key_rows),
}
_GEMMA_NORMS = {
    "output_norm": ("model.norm", minus_one),
    "blk.{}.attn_norm": (_LAYER + "input_layernorm", minus_one),
    "blk.{}.post_attention_norm": (_LAYER + "post_attention_layernorm", minus_one),
    "blk.{}.ffn_norm": (_LAYER + "pre_feedforward_layernorm", minus_one),
    "blk.{}.post_ffw_norm": (_LAYER + "post_feedforward_layernorm", minus_one),
    "blk.{}.attn_q_norm": (_LAYER + "self_attn.q_norm", minus_one),
    "blk.{}.attn_k_norm": (_LAYER + "self_attn.k_norm", minus_one),
}
_GPT2_TENSORS = {
    **_with_parts(
        {
            "token_embd": ("transformer.wte", as_stored),
            "position_embd": ("transformer.wpe", as_stored),
            "output": ("lm_head", as_stored),
            "blk.{}.attn_qkv": ("transformer.h.{}.attn.c_attn", transposed),
            "blk.{}.attn_output": ("transformer.h.{}.attn.c_proj", transposed),
            "blk.{}.ffn_up": ("transformer.h.{}.mlp.c_fc", transposed),
            "blk.{}.ffn_down": ("transformer.h.{}.mlp.c_proj", transposed),
        },
        "weight",
    ),
    **_with_parts(
        {
            "blk.{}.attn_qkv": ("transformer.h.{}.attn.c_attn", as_stored),
            "blk.{}.attn_output": ("transformer.h.{}.attn.c_proj", as_stored),
            "blk.{}.ffn_up": ("transformer.h.{}.mlp.c_fc", as_stored),
            "blk.{}.ffn_down": ("transformer.h.{}.mlp.c_proj", as_stored),
        },
        "bias",
    ),
    **_with_parts(
        {
            "output_norm": ("transformer.ln_f", as_stored),
            "blk.{}.attn_norm": ("transformer.h.{}.ln_1", as_stored),
            "blk.{}.ffn_norm": ("transformer.h.{}.ln_2", as_stored),
        },
        "weight",
        "bias",
    ),
}
_GPT_NEOX_TENSORS = {
    **_with_parts(
        {
            "token_embd": ("gpt_neox.embed_in", as_stored),
            "output": ("embed_out", as_stored),
        },
        "weight",
    ),
    **_with_parts(
        {
            "output_norm": ("gpt_neox.final_layer_norm", as_stored),
            "blk.{}.attn_norm": ("gpt_neox.layers.{}.input_layernorm", as_stored),
            "blk.{}.ffn_norm": ("gpt_neox.layers.{}.post_attention_layernorm", as_stored),
            "blk.{}.attn_qkv": ("gpt_neox.layers.{}.attention.query_key_value", heads_first),
            "blk.{}.attn_output": ("gpt_neox.layers.{}.attention.dense", as_stored),
            "blk.{}.ffn_up": ("gpt_neox.layers.{}.mlp.dense_h_to_4h", as_stored),
            "blk.{}.ffn_down": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", as_stored),
        },
        "weight",
        "bias",
    ),
}

FAMILIES: dict[str, GgufFamily] = {
    "llama": GgufFamily(
        constants={"model_type": "llama", "hidden_act": "silu", "rope_theta": 10000.0},
        required=settings.RMS_KEYS,
        optional=settings.OPTIONAL_KEYS,
        tensors={
            **_EMBEDDINGS,
            **_with_parts(_NORMS, "weight"),
            **_with_parts(_LLAMA_PROJECTIONS, "weight", "bias"),
        },
        derive=settings.derive_llama,
    ),
    "qwen2": GgufFamily(
        constants={"model_type": "qwen2", "hidden_act": "silu", "rope_theta": 10000.0},
        required=settings.RMS_KEYS,
        optional=settings.OPTIONAL_KEYS,
        tensors={
            **_EMBEDDINGS,
            **_with_parts(_NORMS, "weight"),
            **_with_parts(_PROJECTIONS, "weight", "bias"),
        },
        derive=settings.derive_llama,
    ),
    "qwen3": GgufFamily(
        constants={"model_type": "qwen3", "hidden_act": "silu", "rope_theta": 10000.0},
        required=settings.RMS_KEYS,
        optional=settings.OPTIONAL_KEYS,
        tensors={
            **_EMBEDDINGS,
            **_with_parts({**_NORMS, **_QK_NORMS}, "weight"),
            **_with_parts(_PROJECTIONS, "weight", "bias"),
        },
        derive=settings.derive_llama,
    ),
    "gemma2": GgufFamily(
        constants={
            "model_type": "gemma2",
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_theta": 10000.0,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 2,
        },
        required=settings.RMS_KEYS,
        optional=settings.GEMMA_KEYS,
        tensors={
            **_EMBEDDINGS,
            **_with_parts(_GEMMA_NORMS, "weight"),
            **_with_parts(_PROJECTIONS, "weight"),
        },
        derive=settings.derive_gemma,
    ),
    "gemma3": GgufFamily(
        constants={
            "model_type": "gemma3_text",
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "sliding_window_pattern": 6,
        },
        required=settings.RMS_KEYS,
        optional=settings.GEMMA_KEYS,
        tensors={
            **_EMBEDDINGS,
            **_with_parts(_GEMMA_NORMS, "weight"),
            **_with_parts(_PROJECTIONS, "weight"),
        },
        derive=settings.derive_gemma,
    ),
    "gpt2": GgufFamily(
        constants={"model_type": "gpt2", "activation_function": "gelu_new"},
        required={
            "n_positions": "context_length",
            "n_layer": "block_count",
            "n_embd": "embedding_length",
            "n_inner": "feed_forward_length",
            "n_head": "attention.head_count",
            "layer_norm_epsilon": "attention.layer_norm_epsilon",
        },
        optional={},
        tensors=_GPT2_TENSORS,
        derive=settings.derive_nothing,
    ),
    "gptneox": GgufFamily(
        constants={
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "rotary_emb_base": 10000.0,
            "use_parallel_residual": True,
        },
        required={**settings.DECODER_KEYS, "layer_norm_eps": "attention.layer_norm_epsilon"},
        optional={
            "rotary_emb_base": "rope.freq_base",
            "rotary_ndims": "rope.dimension_count",
            "use_parallel_residual": "use_parallel_residual",
        },
        tensors=_GPT_NEOX_TENSORS,
        derive=settings.derive_gpt_neox,
    ),
}
