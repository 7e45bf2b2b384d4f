"""Every family against Hugging Face on configurations that are drawn: features in combination.

    ./run.sh bench families [--examples 3] [--families llama phi]

needs `transformers` in the rival's environment (.venv-torch). For each family hypothesis draws, of
each option, a value that some case of tests/goldens has, or the default, whatever the others are;
numbers of heads, their width, layers, vocabulary and weights at will. A tiny model of that
configuration is run by both, two prompts in float32, padded on either side. Prints, by family, how
many were compared, and the largest error of logits and of head outputs relative to the largest
value; then what we refused, and what Hugging Face did. A failure is shrunk and printed.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from circuits_jax.lm.files.checkpoints import RawCheckpoint
from circuits_jax.runs.errors import InputError
from tests.circuits.lm.test_families import MAKER, errors_of

ALLOWED = 1e-4
NAMES = {  # GPT-2's and GPT-Neo's names of sizes
    "hidden_size": ("hidden_size", "n_embd"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
}
KV = ("num_key_value_heads", "num_kv_heads")
BY_LAYER = ("layer_types", "no_rope_layers", "attention_types", "max_window_layers")
KEPT = {"max_position_embeddings", "n_positions", "intermediate_size", "ffn_dim", "pad_token_id"}
SIZES = {name for names in NAMES.values() for name in names} | {*KV, *BY_LAYER, *KEPT}
ORACLE = """
import sys, json, importlib.util, warnings
warnings.simplefilter("ignore")
import numpy as np
spec = importlib.util.spec_from_file_location("maker", sys.argv[1])
maker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maker)
for line in sys.stdin:
    config, seed, path = json.loads(line)
    try:
        np.savez(path, **maker.make_case(config, seed))
        print("made", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).split(chr(10))[0][:80], flush=True)
"""


def cases() -> dict[str, list[dict]]:
    """The configurations of tests/goldens by family."""
    found = collections.defaultdict(list)
    for config in (MAKER.CASES | MAKER.MORE_CASES).values():
        if "text_config" not in config:
            found[config["model_type"]].append(config)
    return found


@st.composite
def configs(draw, same: list[dict]):
    """A configuration like those of one family, and a seed of weights."""
    base = draw(st.sampled_from(same))
    config = dict(base)
    for name in sorted({name for one in same for name in one} - SIZES - {"model_type"}):
        values = [one[name] for one in same if name in one]
        kept = [base[name]] if name in base else [...]
        rest = [value for value in values if value not in kept]
        plain = [...] if name in base and len(same) > 1 else []
        value = draw(st.sampled_from([*kept, *rest, *plain]))
        config.pop(name, None)
        if value is not ...:
            config[name] = value
    names = {ours: next(n for n in known if n in base) for ours, known in NAMES.items()}
    old = base[names["num_attention_heads"]]
    width = base[names["hidden_size"]] // old
    n_heads = draw(st.sampled_from([old, 1, 2, 3, 6]))
    if "head_dim" not in base and not any("rop" in name or "rotary" in name for name in config):
        width = draw(st.sampled_from([width, 4, 8, 10]))
    config[names["num_attention_heads"]] = n_heads
    config[names["hidden_size"]] = n_heads * width
    for name in {*KV} & set(base):
        config[name] = draw(st.sampled_from([d for d in range(1, n_heads + 1) if n_heads % d == 0]))
    if not {*BY_LAYER} & set(config):
        config[names["num_hidden_layers"]] = draw(st.integers(1, 4))
    config["vocab_size"] = draw(st.sampled_from([61, 64, 77]))
    return config, draw(st.integers(0, 99))


def main():
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rival", default=".venv-torch/bin/python")
    parser.add_argument("--examples", type=int, default=3)
    parser.add_argument("--families", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    families = {k: v for k, v in cases().items() if not asked.families or k in asked.families}
    maker = MAKER.__spec__.origin
    oracle = subprocess.Popen(
        [asked.rival, "-c", ORACLE, maker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    errors = collections.defaultdict(list)
    refused, invalid = collections.Counter(), collections.Counter()

    def compare(drawn, path):
        config, seed = drawn
        oracle.stdin.write(json.dumps([config, seed, path]) + "\n")
        oracle.stdin.flush()
        said = oracle.stdout.readline().strip()
        if said != "made":
            invalid[said] += 1
        assume(said == "made")
        with np.load(path) as file:
            meta = json.loads(str(file["meta"]))
            tensors = MAKER.weights(meta["shapes"], seed)
            raw = RawCheckpoint(config=config, tensors=tensors, name="drawn", source="drawn")
            try:
                error = errors_of(raw, file["logits"], file["heads"]).max(axis=0)
            except InputError as sentence:
                refused[f"{config['model_type']}: {sentence}"] += 1
                return
        errors[config["model_type"]].append(error)
        print(config["model_type"], error, file=sys.stderr, flush=True)
        assert error.max() < ALLOWED, (config, error)

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "case.npz")
        run = settings(
            max_examples=asked.examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        try:
            for same in families.values():
                test = given(configs(same))(lambda drawn: compare(drawn, path))
                seeded(asked.seed)(run(test))()
        finally:
            oracle.stdin.close()
            print("| family | compared | logits | heads |")
            for family, found in sorted(errors.items()):
                logits, heads = np.max(found, axis=0)
                print(f"| {family} | {len(found)} | {logits:.1e} | {heads:.1e} |")
            for title, counts in (("refused", refused), ("no model of Hugging Face", invalid)):
                for said, count in counts.most_common():
                    print(f"{title}: {count} x {said}")


if __name__ == "__main__":
    main()
