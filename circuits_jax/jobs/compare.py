"""The job "compare": every method on one task and one model, in one table and one figure.

    reference   exact patching on the held-out pairs: what each head does, on prompts none learned
    METHOD      its scores from the learn pairs, cold and warm
    judge       how good they are: agreement with the reference and with circuits that are known,
                faithfulness, CPR and CMD

    compare.json, compare.csv, report.html, reference/scores.npz, and for each method
    METHOD/scores.npz, METHOD/cost.json, METHOD/row.json

A run that was stopped goes on at the method where it was.
"""

import csv
import dataclasses
import io
import math
import warnings
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from circuits_jax.capture.ablation import trial
from circuits_jax.circuits.circuit import Scores, load_scores
from circuits_jax.config import ENSEMBLES, comparison
from circuits_jax.evaluation.agreement import Agreement, against_exact
from circuits_jax.evaluation.cost import Cost, measured, passes, summed
from circuits_jax.evaluation.cpr_cmd import SIZES, area_masks, cmd, cpr
from circuits_jax.evaluation.faithfulness import against_truth, faithfulness, warnings_of
from circuits_jax.evaluation.masked_passes import masked_metrics
from circuits_jax.evaluation.track import shown
from circuits_jax.jobs.common import begun, check_fields, cut
from circuits_jax.jobs.workdir import Workdir, open_workdir
from circuits_jax.lm import performance
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.performance import Interval
from circuits_jax.methods import METHODS, combined, configured, members, method_of
from circuits_jax.report import compare_page
from circuits_jax.runs import files, keys
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.command import check_values
from circuits_jax.runs.lock import one_at_a_time
from circuits_jax.tasks import GroundTruth, Task, task_warning


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says of one method; NaN where it is not known.

    Attributes:
        method: its name.
        exact: agreement with exact patching on held-out pairs.
        truths: ROC AUC of head scores against each known circuit, by its name.
        edge_truths: the same of edge scores, where the circuit's edges are known; over pairs of an
            earlier and a later head.
        faithfulness: of the circuit, by ablation.
        ranges: what faithfulness is a share of, by ablation.
        heads: in the circuit; fewer than asked for where the others score no more than noise.
        worst_divergence: the largest over prompts, with others resampled
            (`evaluation/faithfulness.py`).
        cpr, cmd: see `evaluation/cpr_cmd.py`.
        cost: see `evaluation/cost.py`.
    """

    method: str
    exact: Agreement
    truths: dict[str, float]
    edge_truths: dict[str, float]
    faithfulness: dict[str, float]
    ranges: dict[str, Interval]
    heads: int
    worst_divergence: float
    cpr: float
    cmd: float
    cost: Cost

    def cells(self) -> dict[str, float | str]:
        """The row as a flat record: columns of compare.csv."""
        return {
            "method": self.method,
            "auc_exact": self.exact.roc_auc,
            "ap_exact": self.exact.average_precision,
            "pearson_exact": self.exact.pearson,
            "spearman_exact": self.exact.spearman,
            **{f"auc_{name}": value for name, value in self.truths.items()},
            **{f"edge_auc_{name}": value for name, value in self.edge_truths.items()},
            **{f"faithfulness_{name}": value for name, value in self.faithfulness.items()},
            "heads": self.heads,
            "worst_divergence": self.worst_divergence,
            "cpr": self.cpr,
            "cmd": self.cmd,
            **dataclasses.asdict(self.cost),
        }


@one_at_a_time
def run(config: ml_collections.ConfigDict, path: str | Path) -> Path:
    """Compare methods; print the table.

    Args:
        config: as `config.comparison` makes it.
        path: the workdir. Methods finished there are not run again.

    Returns:
        The path of the report.

    Raises:
        InputError: a config that cannot be run, or a workdir of another experiment.
    """
    check(config)
    workdir = open_workdir(config, path)
    if workdir.finished():
        logging.info("%s is finished; nothing is done again", workdir.path)
        print(printed(files.read_json(workdir / "compare.json")))
        return workdir / "report.html"
    model, task, measured = begun(workdir, config)
    with workdir.stage("reference"):
        effects, gap = reference(workdir, model, task), measured["held_out"].gap.mean
    for method in methods_of(config):  # first, as a cold call forgets all that judging has compiled
        with workdir.stage(method):
            score(workdir, config, model, task, method)
    with workdir.stage("judge"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", task_warning.TaskWarning
        )  # of fewer heads: the table says it
        rows = [
            row(workdir, config, model, task, method, effects, gap) for method in methods_of(config)
        ]
    cells = [one.cells() for one in rows]
    truths = {truth.name: truth.source for truth in known(model, task)}
    record = {
        "warnings": warnings_of(measured, rows[0].ranges),
        "performance": performance.to_json(measured),
        "model": config.model,
        "task": config.task.name,
        "gap": gap,
        "truths": truths,
        "sizes": SIZES,
        "rows": cells,
    }
    files.write_json(workdir / "compare.json", record)
    files.write(workdir / "compare.csv", as_csv(cells))
    environment = files.read_json(workdir / "run.json")
    page = compare_page.render(
        cells, task, truths, workdir.config, environment, measured, record["warnings"]
    )
    files.write(workdir / "report.html", page)
    print(printed(record))
    return workdir / "report.html"


def printed(record: dict[str, Any]) -> str:
    """What a terminal shows of compare.json: performance, warnings and the table."""
    text = performance.lines(performance.from_json(record["performance"]))
    text += [f"Warning: {sentence}." for sentence in record["warnings"]]
    return "\n".join([*text, "", table(record["rows"])])


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse what cannot be run before any work is done.

    Raises:
        InputError: a field, its value, and what is allowed.
    """
    check_values(config, comparison(""))
    for method in config.methods:
        configured(method, config)
    check_fields(config)
    check_allowed("config.masks_at_once", config.masks_at_once, Range(1))


def methods_of(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The methods that the config names; every one where it names none."""
    return tuple(config.methods) or (*METHODS, *ENSEMBLES)


def known(model: LanguageModel, task: Task) -> list[GroundTruth]:
    """The task's circuits that are of this model."""
    return [truth for truth in task.truths if model.name.split("/")[-1] == truth.model]


def reference(workdir: Workdir, model: LanguageModel, task: Task) -> np.ndarray:
    """Exact signed effects on the held-out pairs, [L, H]."""
    own = Workdir(workdir / "reference", workdir.config, {})
    if not own.has("scores.npz"):
        method = METHODS["exact_patching"]
        held_out = dataclasses.replace(task, learn=task.held_out)
        found = method.run(model, held_out, jax.random.key(0), method.options)
        found.save(own / "scores.npz")
    return load_scores(own / "scores.npz").details["effects"]


def score(
    workdir: Workdir, config: ml_collections.ConfigDict, model: LanguageModel, task: Task, name: str
) -> None:
    """A method's scores and what they cost, where they are not in the workdir.

    Of several together, the scores of each are made first, and their costs add up.
    """
    own = Workdir(workdir / name, workdir.config, {})
    if own.has("scores.npz") and own.has("cost.json"):
        return
    names, options = members(name), configured(name, config)
    if len(names) > 1:
        folders = [workdir / one for one in names]
        for one in names:
            score(workdir, config, model, task, one)
        scores = combined([load_scores(f / "scores.npz") for f in folders], options.combine)
        cost = summed([_cost(f / "cost.json") for f in folders])
    else:
        key = keys.stream(config.seed, "method")
        scores, cost = measured(
            lambda: method_of(name).run(model, task, key, options),
            passes(name, options, model, task),
            config.warm_limit,
        )
    scores.save(own / "scores.npz")
    files.write_json(own / "cost.json", dataclasses.asdict(cost))


def row(
    workdir: Workdir,
    config: ml_collections.ConfigDict,
    model: LanguageModel,
    task: Task,
    name: str,
    effects: np.ndarray,
    gap: float | int,
) -> Row:
    """A method's row, found in the workdir or made of its scores."""
    own = Workdir(workdir / name, workdir.config, {})
    if own.has("row.json"):
        return _row_from_json(files.read_json(own / "row.json"))
    scores = load_scores(own / "scores.npz")
    found = Row(
        method=name,
        exact=against_exact(scores, effects, gap),
        **against_known(scores, known(model, task)),
        **circuit_scores(config, model, task, scores),
        cost=_cost(own / "cost.json"),
    )
    files.write_json(own / "row.json", dataclasses.asdict(found))
    return found


def _cost(path: Path) -> Cost:
    return Cost(**files.numbers(files.read_json(path)))


def _row_from_json(record: dict[str, Any]) -> Row:
    parts: dict[str, Any] = {
        k: files.numbers(v) if isinstance(v, dict) else v for k, v in files.numbers(record).items()
    }
    parts["ranges"] = {name: Interval(**files.numbers(v)) for name, v in record["ranges"].items()}
    return Row(**parts | {"exact": Agreement(**parts["exact"]), "cost": Cost(**parts["cost"])})


def against_known(scores: Scores, truths: list[GroundTruth]) -> dict[str, Any]:
    """ROC AUC of heads and of edges against known circuits, by their names."""
    heads, edges = np.asarray(scores.head_scores), np.asarray(scores.edge_scores)
    width = heads.shape[1]
    layer = np.arange(heads.size) // width
    later = layer[:, None] < layer[None, :]
    of_heads, of_edges = {}, {}
    for truth in truths:
        mask = np.zeros(heads.shape, bool)
        mask[tuple(np.array(sorted(truth.heads)).T)] = True
        of_heads[truth.name] = against_truth(heads, mask, mask).roc_auc
        if truth.edges:
            pairs = np.zeros(edges.shape, bool)
            for (layer_a, a), (layer_b, b) in truth.edges:
                pairs[layer_a * width + a, layer_b * width + b] = True
            of_edges[truth.name] = against_truth(edges[later], pairs[later], pairs[later]).roc_auc
    return {"truths": of_heads, "edge_truths": of_edges}


def circuit_scores(
    config: ml_collections.ConfigDict, model: LanguageModel, task: Task, scores: Scores
) -> dict[str, Any]:
    """Faithfulness of the circuit by ablation, and CPR and CMD with heads resampled.

    With it, what that is a share of.
    """
    circuit = cut(scores, config.circuit).heads
    extremes = np.stack([np.ones_like(circuit), np.zeros_like(circuit), circuit])
    area = area_masks(scores)
    found, ranges = {}, {}
    parts: dict[str, Any] = {"heads": int(circuit.sum())}
    for ablation in ("resample", "mean", "zero"):
        masks = extremes
        if ablation == "resample":
            masks = np.concatenate([extremes, area.reshape(-1, *circuit.shape)])
        different, back = np.unique(masks, axis=0, return_inverse=True)
        values, divergence = masked_metrics(
            model,
            trial(model, task.held_out, ablation, task.metric).filled(),
            different,
            task.metric,
            config.masks_at_once,
            shown,
        )
        values = values[back.reshape(-1)]
        ranges[ablation] = performance.interval(values[0] - values[1])
        full, empty, *kept = values.mean(axis=1)
        own, *curve = faithfulness(np.array(kept), float(full), float(empty))
        found[ablation] = float(own)
        if ablation == "resample":
            signed, absolute = np.array(curve).reshape(2, len(SIZES))
            worst = divergence[back.reshape(-1)[2]].max()
            parts |= {"cpr": cpr(signed), "cmd": cmd(absolute), "worst_divergence": float(worst)}
    return parts | {"faithfulness": found, "ranges": ranges}


def as_csv(cells: list[dict[str, Any]]) -> str:
    """The table as comma-separated values; nothing where a number is not known."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(files.plain(cells))
    return buffer.getvalue()


def table(cells: list[dict[str, Any]]) -> str:
    """The table as markdown, of the columns that say something of any method."""
    names = [name for name in cells[0] if any(_is_known(one[name]) for one in cells)]
    lines = [[_cell(one[name]) for name in names] for one in cells]
    rows = [names, ["---"] + ["---:"] * (len(names) - 1), *lines]
    widths = [max(len(line[i]) for line in rows) for i in range(len(names))]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in rows
    )


def _is_known(value: Any) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if _is_known(value) else "\u2013"
