"""Edges of the whole graph on SmolLM2: CPR and CMD as MIB computes them, and the circuit of 2 %.

    ./run.sh bench graph_table --draws 2

prints a row for each task and method, means over draws: CPR (higher is better) and CMD (0 is best)
by edges under resample ablation, on held-out pairs that nothing was learnt from; then faithfulness
of the connected circuit of the best 2 % of all edges, and of random circuits of as many edges among
the same nodes; how many nodes and edges it has; the rank correlation of effects with what cutting
each of `--cut` edges alone does to the metric of the pairs that were learnt from (half of them are
drawn among the best 2 % of the method that is listed first); and seconds for the scores, warm.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from scipy import stats

import circuits_jax as cj
from circuits_jax.circuits.graph import graph_of
from circuits_jax.circuits.graph_circuit import graph_circuit
from circuits_jax.evaluation.graph_faithfulness import (
    edge_areas,
    evaluate_graph,
    graph_metrics,
    graph_trial,
)
from tests.bench.quality import TASKS, draw

METHODS = ["sae_codes", "relp", "eap", "eap_ig"]
COLUMNS = ("CPR", "CMD", "2 %", "random", "nodes", "edges", "rank corr.", "seconds")


def exact_effects(model, task, graph, edges):
    """What cutting each of some edges does to the metric, mean over the pairs learnt from."""
    prepared = graph_trial(model, task.learn, "resample", task.metric)
    keep = np.ones((1 + len(edges), *graph.is_edge.shape), bool)
    keep[1 + np.arange(len(edges)), *edges.T] = False
    whole, *cut = graph_metrics(model, prepared, keep, task.metric).mean(axis=1)
    return whole - np.array(cut)


def sample(graph, effects, n: int, seed: int) -> np.ndarray:
    """Half of the edges from the best 2 %, half from all."""
    rng, best = np.random.default_rng(seed), np.argsort(-np.abs(effects).ravel())
    top = best[: graph.is_edge.sum() // 50]
    chosen = [rng.choice(top, n // 2, replace=False)]
    chosen.append(rng.choice(np.flatnonzero(graph.is_edge), n - n // 2, replace=False))
    return np.stack(np.unravel_index(np.concatenate(chosen), effects.shape), axis=1)


def main():
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cut", type=int, default=0)
    parser.add_argument("--rival", help="not used")
    args = parser.parse_args()
    model = cj.load_model("smollm2")
    graph = graph_of(model.config)
    print("| task | method |", *(f"{column} |" for column in COLUMNS))
    print("|" + " --- |" * (2 + len(COLUMNS)), flush=True)
    for name in args.tasks:
        rows = {method: [] for method in args.methods}
        for seed in range(args.draws):
            task, edges = draw(model, name, args.pairs, seed, args.pairs), None
            for method in args.methods:
                cj.discover(model, task, method, seed=seed)
                start = time.perf_counter()
                scores = jax.block_until_ready(cj.discover(model, task, method, seed=seed))
                seconds = time.perf_counter() - start
                effects = np.asarray(scores.details["graph_effects"])
                areas, circuit = edge_areas(model, task, scores), graph_circuit(scores, graph)
                own, random = evaluate_graph(model, task, circuit, seed, n_random=2)
                correlation = np.nan
                if args.cut:
                    if edges is None:
                        edges = sample(graph, effects, args.cut, seed)
                        exact = np.abs(exact_effects(model, task, graph, edges))
                    correlation = stats.spearmanr(np.abs(effects[*edges.T]), exact).statistic
                shares = areas.cpr, areas.cmd, own.faithfulness, random.faithfulness
                sizes = len(circuit.nodes), circuit.size
                rows[method].append((*shares, *sizes, correlation, seconds))
        for method, found in rows.items():
            cells = [f"{x:z.3f} |" if x < 10 else f"{x:.0f} |" for x in np.mean(found, axis=0)]
            print(f"| {Path(name).stem} | `{method}` |", *cells, flush=True)
        jax.clear_caches()  # other prompts have other lengths


if __name__ == "__main__":
    main()
