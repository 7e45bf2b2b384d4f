"""How well methods rank heads against exact patching on SmolLM2: ROC AUC, mean over fresh draws.

    ./run.sh bench quality --oracles runs/oracles --draws 10

prints a table, tasks by methods: mean and standard deviation of the AUC over draws of `--pairs`
pairs, and how many of the 20 strongest heads are among exact patching's. A method may be several
joined with +, which are scored once and combined in every way of `--combine`. Positive are heads
whose exact effect (noising, all positions, over `--oracle_pairs` pairs that no draw is made from;
or, with `--same_pairs`, over the draw's own) is above 2 % of what lies between positive and
negative prompts. A task is a name or the path of a file of prompts. Exact patching of a task
takes a minute or so on two cores; it is kept in the folder `--oracles`, and not done again.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np
from sklearn.metrics import roc_auc_score

import circuits_jax as cj
from circuits_jax.circuits.circuit import best_first
from circuits_jax.methods import combined
from circuits_jax.tasks import PromptPairs, Task, metric_values, targets

HELD_OUT = ("capital", "agreement", "colours")  # tasks that served for no choice
FILES = [str(Path(__file__).with_name("tasks") / f"{name}.jsonl") for name in HELD_OUT]
TASKS = ["ioi", "greater_than", "induction", *FILES]
METHODS = ["sae_codes", "attribution", "mean_difference"]
ORACLE_SEED, POSITIVE = 123, 0.02


def draw(model, name: str, n: int, seed: int, n_held_out: int = 1) -> Task:
    """A task by its name, or from a file."""
    if Path(name).suffix:
        own = {"n": n, "seed": seed, "path": name, "n_held_out": n_held_out}
        return cj.make_task("custom", model.tokenizer, **own)
    return cj.make_task(name, model.tokenizer, n=n, n_held_out=n_held_out, seed=seed)


def mean_metric(model, prompts: tuple[str, ...], pairs: PromptPairs, metric: str) -> float:
    """The task's metric on prompts, by the answers and foils of the pairs."""
    return float(metric_values(model.logits(prompts), targets(pairs), metric).mean())


def positives(model, task: Task, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which heads have an effect on the pairs of a task, and how strong it is; kept in a file."""
    if not path.exists():
        pairs = task.learn
        effect = cj.discover(model, task, "exact_patching").details["effects"]
        sides = pairs.positives, pairs.negatives
        clean, corrupt = (mean_metric(model, side, pairs, task.metric) for side in sides)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, effect=np.asarray(effect), clean=clean, corrupt=corrupt)
    kept = np.load(path)
    effect = np.abs(kept["effect"])
    return effect > POSITIVE * abs(kept["clean"] - kept["corrupt"]), effect


def all_scores(model, task: Task, args, seed: int) -> list[np.ndarray]:
    """Head scores of every method, flat; members of several are scored once."""
    alone = {}
    names = dict.fromkeys(one for method in args.methods for one in method.split("+"))
    for name in names:
        options = args.options if name == args.methods[0] else {}
        alone[name] = cj.discover(model, task, name, seed=seed, **options)
    found = []
    for method in args.methods:
        own = [alone[name] for name in method.split("+")]
        ways = [combined(own, way) for way in args.combine] if len(own) > 1 else own
        found += [np.ravel(one.head_scores) for one in ways]
    return found


def overlap(scores: np.ndarray, effect: np.ndarray, n: int = 20) -> int:
    """How many of the strongest heads are the same."""
    first, second = (set(best_first(x)[:n].tolist()) for x in (scores, effect))
    return len(first & second)


def reference(model, name: str, n_pairs: int) -> Task:
    """Pairs of a task that no draw is made from."""
    task = draw(model, name, 5, ORACLE_SEED, n_pairs)
    return dataclasses.replace(task, learn=task.held_out[:n_pairs])


def main():
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--combine", nargs="+", default=["ranks"], help="ranks, mean or minimum")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--oracle_pairs", type=int, default=12)
    parser.add_argument("--oracles", type=Path, required=True)
    parser.add_argument(
        "--same_pairs", action="store_true", help="exact patching of each draw's own"
    )
    parser.add_argument("--rival", help="not used")
    parser.add_argument("--options", nargs="*", default=[], help="of the first method, such as k=1")
    args = parser.parse_args()
    options = {name: float(value) for name, value in (o.split("=") for o in args.options)}
    args.options = {name: int(v) if v == int(v) else v for name, v in options.items()}
    model = cj.load_model("smollm2")
    names = [
        f"`{method}`" + (f", {way}" if way else "")
        for method in args.methods
        for way in (args.combine if "+" in method else ("",))
    ]
    print("| task | heads |", *(f"{name} |" for name in names))
    print("|" + " --- |" * (2 + len(names)), flush=True)
    table = []
    for name in args.tasks:
        stem, rows = Path(name).stem, []
        others = reference(model, name, args.oracle_pairs)
        truth, effect = positives(model, others, args.oracles / f"{stem}.npz")
        for seed in range(args.draws):
            task = draw(model, name, args.pairs, seed)
            if args.same_pairs:
                path = args.oracles / f"{stem}_{args.pairs}_{seed}.npz"
                truth, effect = positives(model, task, path)
            found = all_scores(model, task, args, seed)
            rows.append([(roc_auc_score(truth.ravel(), s), overlap(s, effect)) for s in found])
        jax.clear_caches()  # other prompts have other lengths
        table.append(np.mean(rows, axis=0))
        spread = np.std(rows, axis=0)[:, 0]
        cells = [
            f"{m:.3f} ± {s:.3f}, {n:.1f} |" for (m, n), s in zip(table[-1], spread, strict=True)
        ]
        print(f"| {stem} | {truth.sum()} |", *cells, flush=True)
    print("| mean | |", *(f"{m:.3f}, {n:.1f} |" for m, n in np.mean(table, axis=0)))


if __name__ == "__main__":
    main()
