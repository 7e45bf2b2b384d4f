"""What Hugging Face's PyTorch implementation makes of SmolLM2-135M, for test_smollm2.py.

    pip install torch==2.13.0 transformers gguf numpy      # an environment of its own
    python make_smollm2_goldens.py SmolLM2-135M-Instruct.Q4_1.gguf

writes smollm2.npz: token ids of three prompts; logits after the last token at 256 vocabulary ids;
every head's output z W_O, at the last token and as a mean over tokens, in 8 random directions.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

PROMPTS = (
    "When Mary and John went to the store, John gave a drink to",
    "The war lasted from the year 1732 to the year 17",
    "def add(first, second):\n    return first +",
)


def main():
    """Run the model once a prompt, with a hook on every output projection."""
    path = Path(sys.argv[1])
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    config, rng = model.config, np.random.default_rng(0)
    directions = rng.standard_normal((config.hidden_size, 8)).astype(np.float32)
    vocabulary = rng.choice(config.vocab_size, 256, replace=False)
    seen = {}
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, args, index=index: seen.__setitem__(index, args[0][0])
        )
    arrays = {"vocabulary": vocabulary, "directions": directions, "prompts": np.array(PROMPTS)}
    for number, prompt in enumerate(PROMPTS):
        ids = torch.tensor([tokenizer(prompt).input_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        heads = []
        for index, layer in enumerate(model.model.layers):
            z = seen[index].reshape(len(ids[0]), config.num_attention_heads, -1)
            w_o = layer.self_attn.o_proj.weight.T.reshape(*z.shape[1:], -1)
            heads.append(torch.einsum("thk,hkd,de->the", z, w_o, torch.tensor(directions)))
        heads = torch.stack(heads, 1).detach()  # [T L H 8]
        arrays |= {
            f"ids_{number}": ids[0].numpy().astype(np.int32),
            f"logits_{number}": logits[torch.tensor(vocabulary)].numpy(),
            f"last_{number}": heads[-1].numpy(),
            f"mean_{number}": heads.mean(0).numpy(),
        }
    np.savez_compressed(Path(__file__).with_name("smollm2.npz"), **arrays)


if __name__ == "__main__":
    main()
