"""How well methods find circuits that are known exactly: ROC AUC on compiled and planted models.

    ./run.sh bench known
    ./run.sh bench known --models planted:48x25 --methods sae_codes --draws 3

prints a table, models by methods: the mean AUC of heads over draws of 5 + 5 prompts and the
smallest one; the same of all edges of the graph, MLPs included, where the method scores them; then
the seconds of the last call, compiled. Compiled models are programs of tracr with two random
heads in every layer.
"""

import argparse
import time

import jax
import numpy as np
from sklearn.metrics import roc_auc_score

import circuits_jax as cj
from circuits_jax.circuits.graph import graph_of
from circuits_jax.tasks.programs import PROGRAMS


def cell(model, task: str, method: str, draws: int, pairs: int) -> str:
    """Mean and smallest AUC of a method over draws, of heads and of edges, and its seconds."""
    graph, values = graph_of(model.config), []
    for seed in range(draws):
        drawn = cj.make_task(task, model.tokenizer, n=pairs, n_held_out=1, seed=seed)
        start = time.perf_counter()
        scores = cj.discover(model, drawn, method, seed=seed)
        heads = np.asarray(jax.block_until_ready(scores.head_scores))
        seconds = time.perf_counter() - start
        truth = np.zeros(heads.shape, bool)
        truth[tuple(np.array(sorted(drawn.truths[0].heads)).T)] = True
        values.append([roc_auc_score(truth.ravel(), heads.ravel())])
        if "graph_effects" in scores.details:
            sizes = np.abs(scores.details["graph_effects"])[graph.is_edge]
            true = graph.mask(drawn.truths[0].graph_edges)[graph.is_edge]
            values[-1].append(roc_auc_score(true, sizes))
    told = zip(("heads", "edges"), np.mean(values, axis=0), np.min(values, axis=0), strict=False)
    areas = [f"{name} {mean:.3f} (least {least:.3f})" for name, mean, least in told]
    return ", ".join([*areas, f"{seconds:.2f} s"])


def main():
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    models = [*(f"tracr:{name}" for name in PROGRAMS), "planted:12x12", "planted:12x12:mlp"]
    models.append("planted:48x25")
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--methods", nargs="+", default=["sae_codes", "mean_difference"])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rival", help="not used")
    options = parser.parse_args()
    print("| model | " + " | ".join(options.methods) + " |")
    print("| --- |" + " --- |" * len(options.methods))
    for name in options.models:
        model, task = cj.load_model(name), "planted" if name.startswith("planted") else "compiled"
        row = [cell(model, task, m, options.draws, options.pairs) for m in options.methods]
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
