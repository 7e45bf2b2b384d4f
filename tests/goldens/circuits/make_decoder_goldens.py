"""Tiny models of every family, run by Hugging Face's torch implementation, for parity tests.

Writes `decoder.npz`, `families.npz` and `drawn.npz` beside itself; a case that is there, of the
very config that it has here, stays as it is, so that a new one is made alone. For each case: the
config.json as written and as transformers saves it, the names and shapes of the saved tensors,
logits [T V] and head outputs z W_O [Q L H D] of two prompts run one at a time, unpadded, in float32
with eager attention. Q are the positions `HEAD_POSITIONS`. Weights are not stored: `weights` makes
them from names and shapes.

Also `rope/...`: frequencies and scale of rotary settings, from transformers' own functions.

Needs torch, which the library does not, and transformers 5; a new family is a row of `MORE_CASES`:

    python -m venv oracle && oracle/bin/pip install torch transformers safetensors
    oracle/bin/python tests/goldens/circuits/make_decoder_goldens.py
"""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np

PROMPTS = ((7, 3, 51, 9, 22, 60, 2, 3, 51, 17, 40, 5, 33), (44, 9, 7, 30, 7, 12))
HEAD_POSITIONS = ((0, 3, 7, 12), (5,))  # of each prompt; 12 is far outside a window of 4

_SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
}
_LLAMA = {**_SIZES, "intermediate_size": 40, "num_key_value_heads": 2}
_GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
_GEMMA = {
    **_LLAMA,
    "num_hidden_layers": 3,
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 4,
}
_GEMMA3 = {
    **_GEMMA,
    "sliding_window_pattern": 3,
    "rope_theta": 5000.0,
    "rope_local_base_freq": 100.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}

CASES = {
    "gpt2": {"model_type": "gpt2", **_GPT2},
    "gpt2_options": {
        "model_type": "gpt2",
        **_GPT2,
        "n_inner": 48,
        "activation_function": "relu",
        "scale_attn_weights": False,
        "tie_word_embeddings": False,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        **_SIZES,
        "intermediate_size": 40,
        "rotary_pct": 0.5,
        "rotary_emb_base": 500,
    },
    "gpt_neox_sequential": {
        "model_type": "gpt_neox",
        **_SIZES,
        "intermediate_size": 40,
        "use_parallel_residual": False,
        "attention_bias": False,
        "hidden_act": "gelu_fast",
        "rope_parameters": {
            "rope_type": "linear",
            "factor": 2.0,
            "rope_theta": 300.0,
            "partial_rotary_factor": 0.25,
        },
        "tie_word_embeddings": True,
    },
    "opt": {"model_type": "opt", **_SIZES, "ffn_dim": 40},
    "opt_no_bias": {
        "model_type": "opt",
        **_SIZES,
        "ffn_dim": 40,
        "enable_bias": False,
        "activation_function": "gelu",
        "tie_word_embeddings": False,
    },
    "llama": {"model_type": "llama", **_LLAMA, "rope_theta": 500.0, "rope_scaling": _LLAMA3},
    "llama_options": {
        "model_type": "llama",
        **_LLAMA,
        "num_key_value_heads": 4,
        "head_dim": 12,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": True,
    },
    "mistral": {"model_type": "mistral", **_LLAMA, "num_key_value_heads": 1, "sliding_window": 4},
    "mistral_full": {"model_type": "mistral", **_LLAMA, "head_dim": 6, "sliding_window": None},
    "qwen2": {
        "model_type": "qwen2",
        **_LLAMA,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "rope_scaling": {"type": "yarn", **_YARN},
    },
    "qwen2_full": {"model_type": "qwen2", **_LLAMA, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {
        "model_type": "qwen3",
        **_LLAMA,
        "head_dim": 12,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
    },
    "gemma2": {
        "model_type": "gemma2",
        **_GEMMA,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma2_uncapped": {
        "model_type": "gemma2",
        **_GEMMA,
        "num_hidden_layers": 2,
        "attention_bias": True,
        "hidden_activation": "gelu",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "gemma3_text": {"model_type": "gemma3_text", **_GEMMA3, "final_logit_softcapping": 4.0},
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            **_GEMMA3,
            "num_hidden_layers": 2,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 16,
            "patch_size": 8,
        },
        "mm_tokens_per_image": 1,
        "image_token_index": 60,
        "boi_token_index": 59,
        "eoi_token_index": 58,
    },
}

_TINY = {**_LLAMA, "hidden_size": 16, "intermediate_size": 20, "pad_token_id": 0}
_FALCON = {k: v for k, v in _TINY.items() if k not in ("intermediate_size", "num_key_value_heads")}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.3, 2.0],
    "long_factor": [1.5, 4.0, 9.0],
}
_MIXTURE = {**_TINY, "moe_intermediate_size": 6, "num_experts": 5, "num_experts_per_tok": 2}

# What came after the first nine families, in `families.npz`: smaller, with all that published
# checkpoints of the family use.
MORE_CASES = {
    "smollm3": {"model_type": "smollm3", **_TINY, "num_hidden_layers": 4, "rope_theta": 300.0},
    "smollm3_options": {
        "model_type": "smollm3",
        **_TINY,
        "num_hidden_layers": 3,
        "no_rope_layers": [0, 1, 1],
        "use_sliding_window": True,
        "sliding_window": 4,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
        "rope_scaling": {"rope_type": "yarn", **_YARN},
    },
    "phi": {"model_type": "phi", **_TINY, "num_key_value_heads": 4, "rope_theta": 300.0},
    "phi_options": {
        "model_type": "phi",
        **_TINY,
        "hidden_size": 32,
        "partial_rotary_factor": 0.75,
        "qk_layernorm": True,
        "hidden_act": "gelu",
    },
    "phi3": {
        "model_type": "phi3",
        **_TINY,
        "hidden_size": 32,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 8,
        "rope_scaling": _LONGROPE,
    },
    "phi3_window": {"model_type": "phi3", **_TINY, "sliding_window": 4},
    "olmo": {"model_type": "olmo", **_TINY, "clip_qkv": 0.9, "rope_theta": 300.0},
    "olmo_options": {
        "model_type": "olmo",
        **_TINY,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "olmo2": {"model_type": "olmo2", **_TINY, "rope_theta": 300.0},
    "olmo2_options": {
        "model_type": "olmo2",
        **_TINY,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "olmo3": {
        "model_type": "olmo3",
        **_TINY,
        "num_hidden_layers": 4,
        "sliding_window": 4,
        "rope_theta": 300.0,
        "rope_scaling": {"rope_type": "yarn", **_YARN},
    },
    "gemma": {"model_type": "gemma", **_TINY, "head_dim": 6, "hidden_act": "gelu"},
    "granite": {
        "model_type": "granite",
        **_TINY,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.3,
        "logits_scaling": 8.0,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "gptj": {"model_type": "gptj", **_GPT2, "rotary_dim": 4, "n_inner": 20},
    "gpt_neo": {
        "model_type": "gpt_neo",
        "vocab_size": 61,
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 4,
        "max_position_embeddings": 24,
        "window_size": 4,
        "attention_types": [[["global", "local"], 1], [["local"], 1]],
    },
    "falcon": {"model_type": "falcon", **_FALCON},
    "falcon_new": {
        "model_type": "falcon",
        **_FALCON,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "ffn_hidden_size": 20,
        "bias": True,
        "tie_word_embeddings": False,
    },
    "falcon_11b": {
        "model_type": "falcon",
        **_FALCON,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "rope_theta": 300.0,
    },
    "falcon_rw": {
        "model_type": "falcon",
        **_FALCON,
        "hidden_size": 24,
        "num_attention_heads": 6,
        "multi_query": False,
        "parallel_attn": False,
        "alibi": True,
        "bias": True,
    },
    "stablelm": {
        "model_type": "stablelm",
        **_TINY,
        "hidden_size": 32,
        "use_qkv_bias": True,
        "partial_rotary_factor": 0.5,
    },
    "stablelm_12b": {
        "model_type": "stablelm",
        **_TINY,
        "hidden_size": 32,
        "qk_layernorm": True,
        "use_parallel_residual": True,
    },
    "cohere": {"model_type": "cohere", **_TINY, "logit_scale": 0.25, "rope_theta": 300.0},
    "cohere_plus": {
        "model_type": "cohere",
        **_TINY,
        "use_qk_norm": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "cohere2": {
        "model_type": "cohere2",
        **_TINY,
        "num_hidden_layers": 4,
        "sliding_window": 4,
        "sliding_window_pattern": 4,
        "logit_scale": 0.25,
        "rope_theta": 300.0,
    },
    "ernie4_5": {"model_type": "ernie4_5", **_TINY, "head_dim": 6, "use_bias": True},
    "arcee": {"model_type": "arcee", **_TINY, "rope_scaling": {"rope_type": "yarn", **_YARN}},
    "exaone4": {
        "model_type": "exaone4",
        **_TINY,
        "num_hidden_layers": 4,
        "sliding_window": 4,
        "sliding_window_pattern": 4,
        "rope_scaling": _LLAMA3,
    },
    "exaone4_full": {
        "model_type": "exaone4",
        **_TINY,
        "sliding_window": None,
        "layer_types": ["full_attention"] * 2,
    },
    "ministral3": {
        "model_type": "ministral3",
        **_TINY,
        "head_dim": 6,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 5,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.6,
        },
    },
    "starcoder2": {"model_type": "starcoder2", **_TINY, "sliding_window": 4},
    "starcoder2_options": {
        "model_type": "starcoder2",
        **_TINY,
        "use_bias": False,
        "tie_word_embeddings": False,
        "norm_epsilon": 1e-3,
    },
    "glm": {"model_type": "glm", **_TINY, "head_dim": 8},
    "glm4": {"model_type": "glm4", **_TINY, "head_dim": 8},
    "llama_dynamic": {
        "model_type": "llama",
        **_TINY,
        "max_position_embeddings": 8,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    "mixtral": {
        "model_type": "mixtral",
        **_TINY,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
    },
    "olmoe": {
        "model_type": "olmoe",
        **_TINY,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "clip_qkv": 0.9,
    },
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        **_MIXTURE,
        "shared_expert_intermediate_size": 10,
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **_MIXTURE,
        "head_dim": 6,
        "norm_topk_prob": True,
        "attention_bias": True,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        **_TINY,
        "head_dim": 6,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "swiglu_limit": 0.5,
    },
}

# Features in combination that no case above has, at other widths.
_WIDE = {"vocab_size": 67, "max_position_embeddings": 24, "hidden_size": 24, "pad_token_id": 0}
_WIDE |= {"num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 28}
DRAWN = {
    "drawn_qwen3_moe": {
        "model_type": "qwen3_moe",
        **_WIDE,
        "num_hidden_layers": 1,
        "head_dim": 10,
        "moe_intermediate_size": 5,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": False,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "drawn_phi": {
        "model_type": "phi",
        **_WIDE,
        "num_hidden_layers": 3,
        "num_key_value_heads": 3,
        "partial_rotary_factor": 0.25,
        "qk_layernorm": True,
        "hidden_act": "gelu_new",
    },
    "drawn_falcon": {
        "model_type": "falcon",
        **{k: v for k, v in _WIDE.items() if k[:8] not in ("num_key_", "intermed")},
        "num_hidden_layers": 3,
        "multi_query": True,
        "parallel_attn": False,
        "bias": True,
        "tie_word_embeddings": False,
    },
    "drawn_gemma2": {
        "model_type": "gemma2",
        **_WIDE,
        "num_hidden_layers": 3,
        "head_dim": 6,
        "query_pre_attn_scalar": 9,
        "sliding_window": 3,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": None,
        "attention_bias": True,
    },
}

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    },
    "yarn_options": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1 + i / 9 for i in range(32)],
        "long_factor": [1 + i for i in range(32)],
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0},
    "yarn_factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "attention_factor": 0.8,
    },
}
ROPE_WIDTH, ROPE_POSITIONS = 64, 131072


def weights(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by name and shape: the same wherever they are made, none at an idle value."""

    def one(name, shape):
        start = (seed, zlib.crc32(name.encode())) if seed else zlib.crc32(name.encode())
        noise = np.random.default_rng(start).standard_normal(shape)
        if len(shape) != 1:
            noise = 0.25 * noise
        elif name.endswith(".weight"):  # a norm
            noise = 1 + 0.3 * noise
        else:
            noise = 0.2 * noise
        return noise.astype(np.float32)

    return {name: one(name, shape) for name, shape in shapes.items()}


def _head_outputs(z, projection, n_heads):
    """[T H*K] before the output projection -> z W_O of each head, [T H D], without the bias."""
    import torch

    weight = projection.weight  # a Linear's is [D, H*K], GPT-2's Conv1D's [H*K, D]
    weight = weight if type(projection).__name__ == "Conv1D" else weight.T
    z, weight = z.unflatten(-1, (n_heads, -1)), weight.unflatten(0, (n_heads, -1))
    return torch.einsum("thk,hkd->thd", z, weight)


def _run(model, prompt, n_heads):
    """Logits [T V] and head outputs [T L H D] of one prompt."""
    import torch

    ends = (
        "attn.c_proj",
        "attention.dense",
        "self_attn.dense",
        "attn.out_proj",
        "attention.out_proj",
        "self_attn.o_proj",
    )
    projections = [
        module
        for name, module in model.named_modules()
        if name.endswith(ends) and "vision" not in name
    ]
    outputs = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, layer=layer: outputs.update(
                {layer: _head_outputs(args[0][0], module, n_heads)}
            )
        )
        for layer, module in enumerate(projections)
    ]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
    for hook in hooks:
        hook.remove()
    heads = torch.stack([outputs[layer] for layer in sorted(outputs)], dim=1)
    return logits.numpy(), heads.numpy()


def make_case(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Everything a test needs to know of one case."""
    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if "text_config" in config else AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        auto.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
        path = Path(folder) / "model.safetensors"
        with safe_open(path, "np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        save_file(weights(shapes, seed), path, metadata={"format": "pt"})
        eager = {"attn_implementation": "eager", "dtype": torch.float32}
        if config.get("alibi"):  # whose eager attention adds ALiBi twice, in the mask and by itself
            eager["attn_implementation"] = "sdpa"
        if any("experts" in name for name in shapes):
            eager["experts_implementation"] = "eager"
        model = auto.from_pretrained(folder, **eager).eval()
        saved = json.loads((Path(folder) / "config.json").read_text())
    n_heads = model.config.get_text_config().num_attention_heads
    runs = [_run(model, prompt, n_heads) for prompt in PROMPTS]
    meta = {"config": config, "saved_config": saved, "shapes": shapes, "seed": seed}
    return {
        "meta": np.array(json.dumps(meta)),
        "logits": np.concatenate([logits for logits, _ in runs]),
        "heads": np.concatenate(
            [heads[list(at)] for (_, heads), at in zip(runs, HEAD_POSITIONS, strict=True)]
        ),
    }


def make_rope(rope: dict) -> np.ndarray:
    """Frequencies, then the scale."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=ROPE_WIDTH,
        num_attention_heads=1,
        max_position_embeddings=ROPE_POSITIONS,
        rope_parameters=dict(rope),
    )
    plain = LlamaRotaryEmbedding.compute_default_rope_parameters
    frequencies, scale = ROPE_INIT_FUNCTIONS.get(rope["rope_type"], plain)(config)
    return np.append(frequencies.numpy(), np.float32(scale))


def kept(path: Path, cases: dict[str, dict]) -> dict[str, dict[str, np.ndarray]]:
    """The cases of a file that are made of the very configs that they have in `cases`."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        found = {name: file[f"{name}/meta"] for name in cases if f"{name}/meta" in file}
        same = [n for n, meta in found.items() if json.loads(str(meta))["config"] == cases[n]]
        return {n: {key: file[f"{n}/{key}"] for key in ("meta", "logits", "heads")} for n in same}


def main():
    """Write what is missing of the files."""
    files = {"decoder": (CASES, ROPES), "families": (MORE_CASES, {}), "drawn": (DRAWN, {})}
    for file, (cases, ropes) in files.items():
        path = Path(__file__).with_name(f"{file}.npz")
        done, arrays = kept(path, cases), {}
        for seed, (name, config) in enumerate(cases.items()):
            print(f"{name}: {'there' if name in done else 'made'}")
            case = done.get(name) or make_case(config, seed if file == "drawn" else 0)
            arrays |= {f"{name}/{key}": value for key, value in case.items()}
        arrays |= {f"rope/{name}": make_rope(rope) for name, rope in ropes.items()}
        np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
