"""How faithful the circuits of SmolLM2-135M are, from 5 + 5 prompts, over seeds.

    ./run.sh bench faithfulness

prints a Markdown table: for each task, method and ablation, at a quarter of the heads and on 10
held-out pairs, faithfulness of the circuit found, of the rest of the model, and of random circuits
of the same size; then of the circuit's heads with its own edges alone, and with as many random
ones: mean and standard deviation over seeds. Every seed draws its own prompts, autoencoders and
random circuits.
"""

import argparse
import collections

import numpy as np

import circuits_jax as cj

ABLATIONS = ("mean", "resample")
KINDS = ("circuit", "complement", "random", "edges", "random_edges")
OPTIONS = cj.EvaluationOptions(ablations=ABLATIONS, curve=(), n_random=5)


def measure(model, task_name: str, method: str, seed: int) -> dict[tuple[str, str], float]:
    """Faithfulness by ablation and kind for one seed."""
    task = cj.make_task(task_name, model.tokenizer, n=5, n_held_out=10, seed=seed)
    circuit = cj.discover(model, task, method, seed=seed).circuit()
    evaluation = cj.evaluate(model, task, circuit, seed, OPTIONS)
    return {(j.ablation, j.kept): j.faithfulness for j in evaluation.judgements}


def main():
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", help="not used")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater_than", "induction"])
    parser.add_argument("--methods", nargs="+", default=["sae_codes"])
    args = parser.parse_args()
    model = cj.load_model("smollm2")
    print("| task | method | others |", *(f"{kind} |" for kind in KINDS))
    print("|" + " --- |" * (3 + len(KINDS)), flush=True)
    for task in args.tasks:
        for method in args.methods:
            values = collections.defaultdict(list)
            for seed in range(args.seeds):
                for column, value in measure(model, task, method, seed).items():
                    values[column].append(value)
            for ablation in ABLATIONS:
                found = [values[ablation, kind] for kind in KINDS]
                cells = [f"{np.mean(v):.2f} ± {np.std(v):.2f} |" for v in found]
                print(f"| {task} | {method} | {ablation} |", *cells, flush=True)


if __name__ == "__main__":
    main()
