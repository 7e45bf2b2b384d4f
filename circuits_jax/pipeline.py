"""The whole story of the method, from a config to a report: read this file first.

task -> head outputs -> autoencoders -> codes -> scores -> circuit -> evaluation -> views -> report
"""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from circuits_jax.circuits.circuit import Circuit, Scores, load_scores
from circuits_jax.circuits.given import read_circuit
from circuits_jax.circuits.graph import graph_of
from circuits_jax.circuits.graph_circuit import graph_circuit
from circuits_jax.config import experiment, judgement
from circuits_jax.evaluation import stability
from circuits_jax.evaluation.faithfulness import (
    EVALUATION_LIMITS,
    Evaluation,
    EvaluationOptions,
    evaluate,
    evaluation_from_json,
)
from circuits_jax.evaluation.graph_faithfulness import evaluate_graph, told
from circuits_jax.evaluation.node_views import NodeViews, load_node_views, named, view_nodes
from circuits_jax.evaluation.track import shown
from circuits_jax.jobs.common import begun, check_fields, cut
from circuits_jax.jobs.workdir import Workdir, open_workdir
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.performance import Performance
from circuits_jax.methods import configured, members, method_of
from circuits_jax.methods.sae_codes import SaeCodes
from circuits_jax.report import circuit_page
from circuits_jax.runs import files, keys
from circuits_jax.runs.checks import Allowed, Range, check_all
from circuits_jax.runs.command import check_values
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.lock import one_at_a_time
from circuits_jax.tasks import Task, task_warning, tokens_of
from circuits_jax.tasks.base import Answer

JUDGED_LIMITS: dict[str, Allowed] = {
    f"evaluate.{name}": allowed for name, allowed in EVALUATION_LIMITS.items()
}
LIMITS: dict[str, Allowed] = {
    "stability.n": Range(0),
    "stability.n_seeds": Range(1),
    **JUDGED_LIMITS,
}


@one_at_a_time
def run(config: ml_collections.ConfigDict, path: str | Path) -> Path:
    """Find the circuit of a task in a model, judge it, and write the report; print the judgement.

    Args:
        config: as `config.experiment` makes it.
        path: the workdir. Stages finished there are not done again.

    Returns:
        The path of the report.

    Raises:
        InputError: a config that cannot be run, a task without contrast, or a workdir of another
            experiment.
    """
    check(config)
    workdir = open_workdir(config, path)
    if workdir.finished():
        logging.info("%s is finished; nothing is done again", workdir.path)
        show(workdir)
        return workdir / "report.html"
    method_key = keys.stream(config.seed, "method")

    model, task, measured = begun(workdir, config)
    with workdir.stage("score heads"):
        if config.job == "judge":
            scores = read_circuit(config.circuit.path, model.config)
        else:
            scores = score(workdir, config, model, task, method_key)
    with warnings.catch_warnings():  # what they say stands in the evaluation
        warnings.simplefilter("ignore", task_warning.TaskWarning)
        circuit = scores if isinstance(scores, Circuit) else cut(scores, config.circuit)
        if isinstance(scores, Circuit):
            scores = Scores(circuit.head_scores, circuit.edge_scores)
        with workdir.stage("bootstrap"):
            stable = bootstrapped(workdir, config, model, task, circuit, method_key, measured)
        with workdir.stage("evaluate"):
            evaluation = evaluated(workdir, config, model, task, circuit, measured, scores)
    with workdir.stage("look at nodes"):
        views = viewed(workdir, model, task, circuit)
    with workdir.stage("write report"):
        results = circuit_page.Results(
            config=workdir.config,
            environment=files.read_json(workdir / "run.json"),
            task=task,
            scores=scores,
            circuit=circuit,
            evaluation=evaluation,
            stability=stable,
            token_strings=token_strings(model, task, views),
            views=views,
            graph=found_graph(workdir),
        )
        files.write(workdir / "report.html", circuit_page.render(results))
    show(workdir)
    return workdir / "report.html"


def show(workdir: Workdir) -> None:
    """Print how good the circuit of a finished run is."""
    print(found_evaluation(workdir))
    graph = found_graph(workdir)
    if graph:
        print("", *told(graph), sep="\n")


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse what cannot be run before any work is done.

    Raises:
        InputError: a field, its value, and what is allowed.
    """
    if config.job == "judge":
        check_values(config, judgement(""))
        check_fields(config)
        if not Path(config.circuit.path).expanduser().is_file():
            path = config.circuit.path
            raise InputError(f"config.circuit.path is {path!r}, which is no file of a circuit")
        return check_all(config, JUDGED_LIMITS, "config.")
    check_values(config, experiment(""))
    members(config.method)  # its name, before the section of that name is read
    configured(config.method, config)
    check_fields(config)
    check_all(config, LIMITS, "config.")


def score(workdir: Workdir, config, model, task, key: jax.Array) -> Scores:
    """Scores of all heads and edges by the config's method, found in the workdir or made."""
    found = workdir.has("scores.npz")
    if found:
        scores = load_scores(workdir / "scores.npz")
    else:
        options = configured(config.method, config)
        scores = method_of(config.method).run(model, task, key, options)
    if "losses" in scores.details:
        losses = np.asarray(scores.details["losses"]).mean(axis=1)
        steps = sorted({*range(0, len(losses), 50), len(losses) - 1})
        workdir.add_metrics("fit", [{"step": s, "loss": float(losses[s])} for s in steps])
    if not found:
        scores.save(workdir / "scores.npz")
    return scores


def bootstrapped(
    workdir: Workdir,
    config: ml_collections.ConfigDict,
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    key: jax.Array,
    measured: Mapping[str, Performance],
) -> stability.Stability | None:
    """Bootstraps of the circuit, found in the workdir or made; None where there are none.

    There are none for methods without codes, for circuits of no head, and where none is asked for.
    """
    if workdir.has("stability.npz"):
        return stability.load(workdir / "stability.npz")
    if config.job == "judge":
        return None
    options = configured(config.method, config)
    if not (isinstance(options, SaeCodes) and config.stability.n and circuit.size):
        return None
    given = {"size": circuit.size, "measured": measured, **config.stability}
    stable = stability.bootstrap(model, task, key, options, **given)
    stability.save(workdir / "stability.npz", stable)
    return stable


def evaluated(
    workdir: Workdir,
    config: ml_collections.ConfigDict,
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    measured: Mapping[str, Performance],
    scores: Scores,
) -> Evaluation:
    """The circuit's evaluation, found in the workdir or made; writes circuit.json.

    With the circuit of the whole graph, and its evaluation, where `scores` are of all edges. The
    parts are saved as they come, and found again where a run was stopped between two of them.
    """
    found = workdir.has("circuit.json")
    if found:
        evaluation = found_evaluation(workdir)
    else:
        options = EvaluationOptions(**config.evaluate)
        if config.job == "judge" and len(set(circuit.head_scores[circuit.heads].tolist())) < 2:
            options = dataclasses.replace(options, curve=())  # heads that nobody has ranked
        seen = shown, workdir.part, measured
        evaluation = evaluate(model, task, circuit, config.seed, options, *seen)
    records = [dataclasses.asdict(judgement) for judgement in evaluation.judgements]
    workdir.add_metrics("evaluate", records)
    if found:
        return evaluation
    record = dataclasses.asdict(evaluation)
    circuit.save(
        workdir / "circuit.json",
        model=config.model,
        task=config.task.name,
        method=config.method,
        seed=config.seed,
        warnings=evaluation.warnings,
        performance=record.pop("performance"),
        evaluation=record,
        **graph_evaluated(workdir, config, model, task, scores),
    )
    workdir.drop_parts()
    return evaluation


def graph_evaluated(
    workdir: Workdir,
    config: ml_collections.ConfigDict,
    model: LanguageModel,
    task: Task,
    scores: Scores,
) -> dict[str, Any]:
    """The key `graph` of circuit.json: the circuit of all edges, and how faithful it is.

    None where the method does not score all edges.
    """
    if "graph_effects" not in scores.details:
        return {}
    circuit = graph_circuit(scores, graph_of(model.config))

    def judged() -> list[dict[str, Any]]:
        found = evaluate_graph(
            model, task, circuit, config.seed, n_random=config.evaluate.n_random, track=shown
        )
        return [files.plain(dataclasses.asdict(one)) for one in found]

    return {"graph": circuit.to_json() | {"judgements": workdir.part("graph", judged)}}


def found_evaluation(workdir: Workdir) -> Evaluation:
    """The evaluation in circuit.json."""
    record = files.read_json(workdir / "circuit.json")
    return evaluation_from_json({"performance": record["performance"], **record["evaluation"]})


def found_graph(workdir: Workdir) -> dict[str, Any] | None:
    """The circuit of the whole graph in circuit.json, and its judgements; None without one."""
    return files.read_json(workdir / "circuit.json").get("graph")


def viewed(workdir: Workdir, model: LanguageModel, task: Task, circuit: Circuit) -> NodeViews:
    """What the circuit's heads and its graph's MLPs do with the prompts, found or looked at."""
    if workdir.has("nodes.npz"):
        return load_node_views(workdir / "nodes.npz")
    graph = found_graph(workdir) or {"nodes": []}
    mlps = [node for node in graph["nodes"] if node.startswith("m")]
    views = view_nodes(model, task, [*named(circuit), *mlps])
    views.save(workdir / "nodes.npz")
    return views


def token_strings(model: LanguageModel, task: Task, views: NodeViews) -> dict[Answer, str]:
    """The text of every answer and foil, and of every token that a node adds most to."""
    both = (task.learn, task.held_out)
    rows = (row for pairs in both for row in (*pairs.answers, *pairs.foils))
    ids = np.concatenate([views.most_ids, views.least_ids], axis=None)
    texts: dict[Answer, str] = {int(t): model.tokenizer.decode([int(t)]) for t in np.unique(ids)}
    said = {one: model.tokenizer.decode(tokens_of(one)) for one in itertools.chain(*rows)}
    return texts | said
