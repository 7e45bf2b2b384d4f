"""Prompt files that others publish: what loads, how the model does, and methods by exact patching.

    ./run.sh bench published FILE... [--model smollm2] [--methods sae_codes attribution]

prints, for each file, how many pairs fit the model and are left, the accuracy on those that do not
learn (20 at most), and for each method the ROC AUC of its heads against exact patching of the same
pairs (positive is an effect above 2 % of what lies between positive and negative prompts) and how
many of the best 20 heads are the same.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import circuits_jax as cj
from circuits_jax.lm.performance import measure

POSITIVE, BEST = 0.02, 20


def best(scores: np.ndarray) -> set[int]:
    """The numbers of the best heads."""
    return set(np.argsort(-scores, kind="stable")[:BEST].tolist())


def main():
    """A row for each file, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--methods", nargs="+", default=["sae_codes", "attribution"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rival", help=argparse.SUPPRESS)  # run.sh gives it to every bench
    asked = parser.parse_args()
    model = cj.load_model(asked.model)
    print(f"| file | pairs | accuracy | heads | {' | '.join(asked.methods)} |")
    for file in asked.files:
        task = cj.make_task("custom", model.tokenizer, n=asked.pairs, path=file)
        n_pairs, judged = len(task.learn) + len(task.held_out), task.held_out[:20]
        learn, held_out = (
            measure(model, type(task)(task.name, task.metric, pairs, pairs), ("learn",))["learn"]
            for pairs in (task.learn, judged)
        )
        exact = np.abs(cj.discover(model, task, "exact_patching").head_scores).ravel()
        truth = exact > POSITIVE * abs(learn.gap.mean)
        cells = []
        for method in asked.methods:
            found = np.asarray(cj.discover(model, task, method).head_scores).ravel()
            auc = roc_auc_score(truth, found) if 0 < truth.sum() < truth.size else np.nan
            cells.append(f"{auc:.3f}, {len(best(found) & best(exact))} of {BEST}")
        row = (Path(file).stem, n_pairs, f"{held_out.accuracy:.0%}", truth.sum(), *cells)
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
