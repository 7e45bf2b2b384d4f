"""Two or more finished runs side by side: which heads they share, and what differs.

    circuits-jax diff RUN RUN ... [--workdir=DIR]

Circuits A and B of models with as many layers and heads are compared by the Jaccard index
|A and B| / |A or B|. Beside it stands the range that holds 95 % of the indices of a bootstrap of
the one run with one of the other (`stability.npz`; of a run without any, its circuit): what to
expect when the runs are made again. By chance: of random circuits of these sizes, |A| |B| / G heads
in common on average. Ranks: Spearman's correlation of the scores of all heads.

    diff.json, report.html
"""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from circuits_jax.circuits.circuit import Circuit, load_circuit, load_scores
from circuits_jax.evaluation import stability
from circuits_jax.evaluation.faithfulness import by_ablation, evaluation_from_json
from circuits_jax.lm.performance import aligned
from circuits_jax.report import diff_page
from circuits_jax.runs import files
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.lock import one_at_a_time


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its folder, or as much of the path as tells it from the others.
        path: its folder.
        about: model, task, method and seed.
        circuit: what it found.
        faithfulness: of the circuit, by ablation; None where it is undefined.
        scores: of all heads, where they are there.
        bootstraps: of the circuit, where there are any.
    """

    name: str
    path: Path
    about: dict[str, Any]
    circuit: Circuit
    faithfulness: dict[str, float | None]
    scores: Float[np.ndarray, "L H"] | None = None
    bootstraps: Bool[np.ndarray, "N L H"] | None = None


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two runs compared; None where their models differ in shape, or there is nothing to tell by.

    Attributes:
        a, b: names.
        shared, only_a, only_b: heads, counted.
        shared_edges, edges: edges of both, and of either.
        jaccard, low, high: the index, and its interval.
        chance: the index of random circuits of these sizes.
        ranks: correlation of the scores of all heads.
    """

    a: str
    b: str
    shared: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    shared_edges: int | None = None
    edges: int | None = None
    jaccard: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    ranks: float | None = None


def run(paths: Sequence[str | Path], workdir: str | Path | None = None) -> Path:
    """Compare finished runs, write the page, and print the table.

    Args:
        paths: folders of two runs or more.
        workdir: of the page; default runs/diff-NAME-NAME.

    Returns:
        The path of the page.

    Raises:
        InputError: fewer than two runs, a folder twice, or one that holds no circuit.
    """
    folders = [Path(path).expanduser() for path in paths]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise InputError(
            f"diff is of {', '.join(map(str, paths)) or 'no run'}; give the folders of two runs or "
            "more, each once"
        )
    runs = [read_run(*one) for one in zip(folders, _names(folders), strict=True)]
    default = "-".join(["diff", *(one.name.replace(os.sep, "-") for one in runs)])[:120]
    return _written(runs, workdir or Path("runs") / default)


@one_at_a_time
def _written(runs: list[Run], path: str | Path) -> Path:
    """The comparison in its folder; the path of the page."""
    folder = Path(path)
    pairs = [compare(a, b) for a, b in itertools.combinations(runs, 2)]
    if (folder / "config.json").exists():
        raise InputError(f"{folder} holds a run; give another --workdir")
    heads = memberships(runs)
    record = {
        "runs": [
            {
                "name": one.name,
                **one.about,
                "heads": one.circuit.size,
                "faithfulness": one.faithfulness,
            }
            for one in runs
        ],
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
        "heads": heads,
    }
    files.write_json(folder / "diff.json", record)
    links = {one.name: os.path.relpath(one.path / "report.html", folder) for one in runs}
    shapes = {one.circuit.heads.shape for one in runs}
    shape = shapes.pop() if len(shapes) == 1 else None
    files.write(folder / "report.html", diff_page.render(record, links, shape))
    print("\n".join(summary(record)))
    return folder / "report.html"


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of folders; of some that are called the same, whole paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len({*names}) == len(names) else [str(folder) for folder in folders]


def read_run(folder: Path, name: str) -> Run:
    """A finished run.

    Raises:
        InputError: no circuit.json, or one that is damaged or of no run.
    """
    path = folder / "circuit.json"
    if not path.is_file():
        raise InputError(f"{folder} is no finished run: it has no circuit.json")
    record, circuit = files.read_json(path), load_circuit(path)
    if "evaluation" not in record:
        raise InputError(f"{path} has no evaluation; give the folder of a run")
    judged = evaluation_from_json({"performance": {}, **record["evaluation"]}).judgements
    own = {
        ablation: row["circuit"].faithfulness
        for ablation, row in by_ablation(judged, circuit.size).items()
        if "circuit" in row
    }
    scores, bootstraps = folder / "scores.npz", folder / "stability.npz"
    return Run(
        name,
        folder,
        {field: record.get(field) for field in ("model", "task", "method", "seed")},
        circuit,
        {ablation: None if np.isnan(value) else value for ablation, value in own.items()},
        np.asarray(load_scores(scores).head_scores) if scores.is_file() else None,
        np.asarray(stability.load(bootstraps).circuits) if bootstraps.is_file() else None,
    )


def compare(a: Run, b: Run) -> Pair:
    """Two runs; see `Pair`."""
    one, other = a.circuit.heads, b.circuit.heads
    if one.shape != other.shape:
        return Pair(a.name, b.name)
    shared = int((one & other).sum())
    by_chance = one.sum() * other.sum() / one.size
    edges, other_edges = a.circuit.edges, b.circuit.edges
    interval = {}
    if a.bootstraps is not None or b.bootstraps is not None:
        drawn = [x.circuit.heads[None] if x.bootstraps is None else x.bootstraps for x in (a, b)]
        low, high = np.percentile(jaccards(*drawn), stability.INTERVAL)
        interval = {"low": float(low), "high": float(high)}
    return Pair(
        a.name,
        b.name,
        shared=shared,
        only_a=int(one.sum()) - shared,
        only_b=int(other.sum()) - shared,
        shared_edges=int((edges & other_edges).sum()),
        edges=int((edges | other_edges).sum()),
        jaccard=float(jaccards(one[None], other[None])[0, 0]),
        chance=float(by_chance / max(one.sum() + other.sum() - by_chance, 1e-30)),
        ranks=_rank_correlation(a.scores, b.scores),
        **interval,
    )


def jaccards(
    a: Bool[np.ndarray, "N L H"], b: Bool[np.ndarray, "N2 L H"]
) -> Float[np.ndarray, "N N2"]:
    """Jaccard index of every circuit of one side with every one of the other; 1 of two empty."""
    a, b = (x.reshape(len(x), -1).astype(float) for x in (a, b))
    shared = a @ b.T
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None] - shared
    return np.where(union, shared / np.maximum(union, 1), 1.0)


def _rank_correlation(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    if a is None or b is None or not (np.ptp(a) and np.ptp(b)):
        return None
    return float(stats.spearmanr(a.ravel(), b.ravel()).statistic)


def memberships(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every head of any circuit, with its rank in each run's circuit; shared ones first."""
    ranks = [{head: i + 1 for i, head in enumerate(one.circuit.ranked_heads())} for one in runs]
    rows = []
    for layer, head in sorted(set().union(*ranks)):
        within = {one.name: rank.get((layer, head)) for one, rank in zip(runs, ranks, strict=True)}
        rows.append({"layer": layer, "head": head, "ranks": within})

    def order(row):
        held = [rank for rank in row["ranks"].values() if rank]
        return -len(held), sum(held) / len(held)

    return sorted(rows, key=order)


def summary(record: dict[str, Any]) -> list[str]:
    """The comparison as lines of text."""
    names = list(dict.fromkeys(name for one in record["runs"] for name in one["faithfulness"]))
    rows: list[tuple[str, ...]] = [("run", "model", "task", "method", "heads", *names)]
    for one in record["runs"]:
        told = [_told(one["faithfulness"].get(name)) for name in names]
        about = (str(one[field]) for field in ("model", "task", "method", "heads"))
        rows.append((one["name"], *about, *told))
    head = "pair", "shared", "only 1st", "only 2nd", "Jaccard", "made again", "chance", "ranks"
    pairs: list[tuple[str, ...]] = [head]
    for pair in record["pairs"]:
        interval = (
            f"{_told(pair['low'])} to {_told(pair['high'])}" if pair["low"] is not None else "-"
        )
        counts = (_told(pair[name]) for name in ("shared", "only_a", "only_b", "jaccard"))
        rest = (_told(pair[name]) for name in ("chance", "ranks"))
        pairs.append((f"{pair['a']}, {pair['b']}", *counts, interval, *rest))
    n_runs = len(record["runs"])
    common = [
        f"{row['layer']}.{row['head']}" for row in record["heads"] if all(row["ranks"].values())
    ]
    shared = f"in all {n_runs} circuits: {' '.join(common[:20]) or 'no head'}"
    shared += " ..." if len(common) > 20 else ""
    return [*aligned(rows), "", *aligned(pairs), "", shared]


def _told(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:z.2f}"
