"""The page on a finished run, `report.html`: what was found, and how we know.

One self-contained file: no script, style, font or picture is loaded from anywhere. What was found
is readable without JavaScript, which lets a reader select another head or another size, and see
what a head does with the prompts. Prompts and names are escaped. All scores have one sign: higher =
in the circuit.
"""

import base64
import dataclasses
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits_jax.circuits.circuit import NOISE, Circuit, Scores, best_first
from circuits_jax.circuits.graph import Graph
from circuits_jax.evaluation import graph_faithfulness
from circuits_jax.evaluation.faithfulness import (
    Evaluation,
    Judgement,
    by_ablation,
    edges_between,
)
from circuits_jax.evaluation.node_views import NodeViews
from circuits_jax.evaluation.stability import Stability
from circuits_jax.lm.performance import labelled
from circuits_jax.methods import METHODS, Ensemble
from circuits_jax.report import figures, node_panel, page
from circuits_jax.report.graph_figure import graph_figure
from circuits_jax.runs import files
from circuits_jax.tasks import PromptPairs, Task
from circuits_jax.tasks.base import Answer

N_HUES = 7  # colours of codes in the style sheet
MOST_EDGES = 20_000  # that the script can draw
MOST_LINKED = 2_000  # edges that links hold; circuit.json has all
JUDGED = ("circuit", "random")
N_NEIGHBOURS = 5  # edges listed for a selected head, in and out
TASKS = {
    "ioi": "Indirect object identification",
    "greater_than": "Greater-than",
    "docstring": "Docstring completion",
    "induction": "Induction",
    "gendered_pronouns": "Gendered pronouns",
    "hypernymy": "Hypernymy",
    "agreement": "Subject-verb agreement",
    "capitals": "Capitals of countries",
    "sports": "Sports of athletes",
    "arithmetic": "Sums",
    "multiple_choice": "Multiple choice",
    "colored_objects": "Colours of objects",
}
METRICS = {
    "logit_diff": "logit difference",
    "prob_diff": "probability difference",
    "log_prob": "log-probability",
    "rank": "rank of the answer, below 0",
    "kl": "KL divergence from the whole model, below 0",
}
ABLATIONS = {
    "mean": "replaced by its mean over the negative prompts",
    "zero": "set to zero",
    "resample": "replaced by its output on the paired negative prompt",
}


@dataclasses.dataclass(frozen=True)
class Results:
    """All that the page shows.

    Attributes:
        config: the resolved configuration; `model` and `method` are names.
        environment: versions, devices, git revision; the title line shows `date` (a string) and the
            sum of `seconds` (stage -> seconds) where they are there.
        task: the pairs that learned and the pairs held out.
        scores: of all heads. Where `details` has `codes` and `strengths` [2 B, G], positives of
            `task.learn` first, the page shows which prompts got which code.
        circuit: cut from the scores.
        evaluation: of the circuit, on held-out pairs.
        token_strings: the text of every answer and foil, by its token or tokens.
        stability: bootstraps of the circuit, where there are any.
        views: what the circuit's nodes do with the prompts, where that was looked at.
        graph: the key `graph` of circuit.json, where all edges are scored.
    """

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    task: Task
    scores: Scores
    circuit: Circuit
    evaluation: Evaluation
    token_strings: Mapping[Answer, str]
    stability: Stability | None = None
    views: NodeViews | None = None
    graph: Mapping[str, Any] | None = None


def render(results: Results) -> str:
    """The page as HTML.

    It holds every head of the model, all prompts (escaped), and no address of another resource.
    """
    return page.render("circuit.html", figures.FILTERS, **_context(results))


def recipe(results: Results) -> str:
    """Code that gives the circuit again, and its evaluation."""
    config, circuit = results.config, results.circuit
    seed = config.get("seed", 0)
    task = {"seed": seed} | {
        name: value
        for name, value in config.get("task", {}).items()
        if value is not None and name not in ("name", "path_sha256")
    }
    loaded = {n: config[n] for n in ("dtype", "adapter") if config.get(n) not in (None, "float32")}
    if config.get("job") == "judge":
        path = _arguments([config["circuit"]["path"]])
        found = [f"circuit = cj.read_circuit({path}, model.config)"]
        if "given" not in circuit.rule:
            found.append(f"circuit = circuit.circuit({_arguments([], circuit.rule)})")
    else:
        chosen = _arguments([config["method"]], {"seed": seed} | _options_given(config))
        found = [
            f"scores = cj.discover(model, task, {chosen})",
            f"circuit = scores.circuit({_arguments([], circuit.rule)})",
        ]
    return "\n".join(
        [
            "import circuits_jax as cj",
            "",
            f"model = cj.load_model({_arguments([config['model']], loaded)})",
            f"task = cj.make_task({results.task.name!r}, model.tokenizer, {_arguments([], task)})",
            *found,
            f"print(cj.evaluate(model, task, circuit, {seed}))",
        ]
    )


def _options_given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the config's method, or methods, that are not as they are by default."""
    names, combine = config["method"].split("+"), config.get("ensemble", {}).get("combine")
    given = {}
    for name in names:
        method = METHODS.get(name)  # none where the record is of a version that had others
        defaults = files.plain(dataclasses.asdict(method.options)) if method else {}
        own = config.get(name, {})
        given[name] = {n: own[n] for n, v in defaults.items() if own.get(n, v) != v}
    if len(names) == 1:
        return given[names[0]]
    given = {name: own for name, own in given.items() if own}
    return given if combine == Ensemble().combine else given | {"combine": combine}


def _arguments(values: Sequence[Any], named: Mapping[str, Any] | None = None) -> str:
    given = [*map(repr, values), *(f"{name}={value!r}" for name, value in (named or {}).items())]
    return ", ".join(given)


def _json_link(circuit: Circuit) -> str:
    """Address of the circuit as a file: of circuit.json itself where it is too large for a page."""
    if circuit.edges.sum() > MOST_LINKED:
        return "circuit.json"
    text = json.dumps(circuit.to_json(), indent=1)
    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()


def settings(record: Mapping[str, Any]) -> str:
    """Nested settings as indented JSON."""
    return json.dumps(files.plain(dict(record)), indent=2, ensure_ascii=False, default=str)


def _context(results: Results) -> dict[str, Any]:
    """What the templates read."""
    task, circuit, evaluation = results.task, results.circuit, results.evaluation
    shape = circuit.heads.shape
    own = by_ablation(evaluation.judgements, circuit.size)
    curve = [
        j
        for j in evaluation.judgements
        if j.ablation == evaluation.judgements[0].ablation and "edges" not in j.kept
    ]
    heads = _heads(results)
    graph = figures.grid(shape, 380, (20, 40))
    return {
        "task": task,
        "title": TASKS.get(task.name, task.name.replace("_", " ").capitalize()),
        "metric": METRICS.get(task.metric, task.metric),
        "model": str(results.config["model"]).rstrip("/").split("/")[-1],
        "config": results.config,
        "environment": results.environment,
        "seconds": sum(results.environment.get("seconds", {}).values()),
        "settings": settings(results.config),
        "recorded": settings(results.environment),
        "circuit": circuit,
        "evaluation": evaluation,
        "performance": labelled(evaluation.performance),
        "warnings": evaluation.warnings,
        "stability": results.stability,
        "graph_figure": graph_figure(results.graph) if results.graph else "",
        "graph_told": graph_faithfulness.told(results.graph) if results.graph else [],
        "own": own,
        "first": next(iter(own.values()), {}),
        "n_edges": (int(circuit.edges.sum()), int(edges_between(circuit.heads).sum())),
        "ablations": ABLATIONS,
        "truths": [truth for truth in task.truths if truth.name in evaluation.truths],
        "heads": heads,
        "records": [head.record() for head in heads] + (mlps := _mlps(results)),
        "mlps": mlps,
        "views": node_panel.packed(results.views, results.token_strings) if results.views else "",
        "graph_data": node_panel.deflated(_graph_data(results, curve, graph)),
        "best": best_first(circuit.head_scores)[0],
        "top": float(np.max(np.abs(circuit.head_scores))),
        "signed": bool((circuit.head_scores < 0).any()),
        "map": figures.grid(shape, 250, (11, 26)),
        "graph": graph,
        "edges": figures.edges(circuit, graph),
        "max_edges": figures.MAX_EDGES,
        "curve": figures.faithfulness_figure(
            curve,
            circuit.size,
            circuit.heads.size,
            "Faithfulness of the found, random and complementary circuits by number of heads",
        ),
        "files": _files(results, heads),
        "recipe": recipe(results),
        "circuit_link": _json_link(circuit),
        "has_codes": _has_codes(results.scores),
        "has_spans": "span_scores" in results.scores.details,
        "pairs": _pairs(task.learn, results.token_strings),
        "held_out": _pairs(task.held_out, results.token_strings),
    }


def _graph_data(results: Results, curve: Sequence[Judgement], grid: figures.Grid) -> dict[str, Any]:
    """What the script draws circuits of other sizes from.

    Edges are [source, target, score]; the circuit's own come first, and then the best others.
    """
    circuit, evaluation = results.circuit, results.evaluation
    scores = np.where(circuit.edges, np.inf, circuit.edge_scores)
    best = best_first(scores)[:MOST_EDGES]
    best = best[scores.reshape(-1)[best] > 0]
    ends = np.stack(np.divmod(best, circuit.heads.size), axis=1)
    known = curve and evaluation.means_something(curve[0].ablation)
    kept = {kind: {j.size: j.faithfulness for j in curve if j.kept == kind} for kind in JUDGED}
    return {
        "grid": dataclasses.asdict(grid) | {"left": figures.LEFT, "top": figures.TOP,
                                            "radius": grid.radius},
        "size": circuit.size,
        "own": int(circuit.edges.sum()),
        "edges": [
            [int(a), int(b), float(f"{circuit.edge_scores[a, b]:.3g}")] for a, b in ends
        ],
        "curve": [
            [size, *(kept[kind].get(size) for kind in JUDGED)]
            for size in sorted(kept["circuit"]) if known and math.isfinite(kept["circuit"][size])
        ],
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Head:
    """One head in the figures and in the panel of the selected head."""

    number: int
    layer: int
    head: int
    name: str
    node: str
    heat: float
    score: str
    rank: int
    inside: bool
    known: bool
    tip: str
    sources: list[tuple[int, str]]
    targets: list[tuple[int, str]]
    codes: list[tuple[str, int, str, float]]
    spans: list[tuple[str, str, float]] = dataclasses.field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What the script shows when the head is selected."""
        names = "name", "node", "layer", "head", "heat", "tip", "score", "rank", "inside"
        return {
            name: getattr(self, name) for name in (*names, "sources", "targets", "codes", "spans")
        }


def _heads(results: Results) -> list[Head]:
    """Every head, in the order of their numbers."""
    circuit, (_, width) = results.circuit, results.circuit.heads.shape
    known = {
        head
        for truth in results.task.truths
        if truth.name in results.evaluation.truths
        for head in truth.heads
    }
    n = circuit.heads.size
    heat = figures.heat(circuit.head_scores).reshape(-1)
    scores = [figures.number(float(score)) for score in circuit.head_scores.reshape(-1)]
    ranks, inside = figures.ranks(circuit.head_scores), circuit.heads.reshape(-1)
    edge_scores = np.asarray(results.scores.edge_scores)
    codes = _codes(results.scores) if _has_codes(results.scores) else [[]] * n
    spans = _spans(results.scores) if "span_scores" in results.scores.details else [[]] * n
    return [
        Head(
            number=g,
            layer=g // width,
            head=g % width,
            name=f"{g // width}.{g % width}",
            node=f"a{g // width}.h{g % width}",
            heat=round(float(heat[g]), 3),
            score=scores[g],
            rank=ranks[g],
            inside=bool(inside[g]),
            known=divmod(g, width) in known,
            tip=f"{g // width}.{g % width}: score {scores[g]}, rank {ranks[g]} of {n}"
            + (", in the circuit" if inside[g] else "")
            + (", in a published circuit" if divmod(g, width) in known else ""),
            sources=_strongest(edge_scores[:, g]),
            targets=_strongest(edge_scores[g]),
            codes=codes[g],
            spans=spans[g],
        )
        for g in range(n)
    ]


def _mlps(results: Results) -> list[dict[str, Any]]:
    """Records as those of heads, of the MLPs in the circuit of the whole graph.

    Their score is that of the method where it scores MLPs, else how much passes from them.
    """
    details, record = results.scores.details, results.graph
    if not record or "graph_effects" not in details:
        return []
    graph = Graph(record["n_layers"], record["n_heads"], record["parallel"])
    effects = np.asarray(details["graph_effects"])
    names = [node for node in record["nodes"] if node.startswith("m")]
    writers = {name: number for number, name in enumerate(graph.writers)}
    scores = details.get("node_scores", np.abs(effects.sum(axis=1)))
    known = [graph.writers[w] for w in graph.head_writers] + names  # in the order of the records
    places = [writers[name] for name in known]
    onward = np.zeros((len(writers), len(graph.nodes)), np.float32)
    np.add.at(onward.T, graph.reader_nodes, effects.T)
    return [
        {
            "name": name,
            "node": name,
            "layer": int(name[1:]),
            "score": figures.number(float(scores[writers[name]])),
            "sources": _strongest(np.abs(onward[places, writers[name]])),
            "targets": _strongest(np.abs(onward[writers[name], places])),
            "codes": [],
            "spans": [],
        }
        for name in names
    ]


def _strongest(edge_scores: np.ndarray) -> list[tuple[int, str]]:
    """Heads at the other end of the strongest edges, with the edges' scores."""
    best = best_first(edge_scores)[:N_NEIGHBOURS]
    return [(int(g), figures.number(float(edge_scores[g]))) for g in best if edge_scores[g] > 0]


def _spans(scores: Scores) -> list[list[tuple[str, str, float]]]:
    """For every head: the spans in which it has a score, and that as a share of its largest."""
    names, found = scores.details["span_names"], np.asarray(scores.details["span_scores"])
    columns = found.reshape(len(names), -1).T
    tops = np.maximum(columns.max(axis=1, keepdims=True), 1e-30)
    return [
        [
            (str(name), figures.number(float(x)), round(float(share), 3))
            for name, x, share in zip(names, column, column / top, strict=True)
            if x > NOISE * top
        ]
        for column, (top,) in zip(columns, tops, strict=True)
    ]


def _has_codes(scores: Scores) -> bool:
    return "codes" in scores.details and "strengths" in scores.details


def _codes(scores: Scores) -> list[list[tuple[str, int, str, float]]]:
    """For every head and prompt (positives first): code, hue, activation, share of the largest.

    Hue 0 is for a code that one prompt alone used, 1 to N_HUES for codes that several share, by
    order of appearance. A code that both kinds of prompts use ends in a plus-minus sign; one that
    no prompt activated is an en dash.
    """
    codes, strengths = np.asarray(scores.details["codes"]), np.asarray(scores.details["strengths"])
    tops = np.maximum(np.max(strengths, axis=0, keepdims=True), 1e-30)
    shares = np.clip(strengths / tops, 0, 1).round(3)
    columns = zip(codes.T.tolist(), strengths.T.tolist(), shares.T.tolist(), strict=True)
    return [_head_codes(*column) for column in columns]


def _head_codes(
    codes: list[int], strengths: list[float], shares: list[float]
) -> list[tuple[str, int, str, float]]:
    active = [
        code if strength > 0 else None for code, strength in zip(codes, strengths, strict=True)
    ]
    half = len(active) // 2
    uses = Counter(active)
    both = set(active[:half]) & set(active[half:]) - {None}
    shared = [code for code in uses if code is not None and uses[code] > 1]
    hues = {code: 1 + i % N_HUES for i, code in enumerate(shared)} | {None: 0}
    return [
        (
            "\u2013" if code is None else f"{code}{' ±' if code in both else ''}",
            hues.get(code, 0),
            figures.number(strength),
            share,
        )
        for code, strength, share in zip(active, strengths, shares, strict=True)
    ]


def _files(results: Results, heads: Sequence[Head]) -> dict[str, str]:
    """Links that save heads and edges as CSV."""
    circuit = results.circuit
    score = circuit.head_scores.reshape(-1)
    rows = [
        {"head": h.name, "score": float(score[h.number]), "rank": h.rank, "in_circuit": h.inside}
        for h in heads
    ]
    width, names = circuit.heads.shape[1], [h.name for h in heads]
    ends = [tuple(layer * width + head for layer, head in pair) for pair in circuit.ranked_edges()]
    edges = [
        {"source": names[a], "target": names[b], "score": float(circuit.edge_scores[a, b])}
        for a, b in ends[:MOST_LINKED]
    ]
    name = "edges" if len(ends) <= MOST_LINKED else f"edges-best-{MOST_LINKED}"
    return {
        "heads": page.csv_link("heads", rows),
        "edges": page.csv_link(name, edges) if edges else "",
    }


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair of prompts as (text, differs) pieces, with the text of its answers and foils."""

    positive: list[tuple[str, bool]]
    negative: list[tuple[str, bool]]
    answers: list[str]
    foils: list[str]


def _pairs(pairs: PromptPairs, token_strings: Mapping[Answer, str]) -> list[Pair]:
    rows = zip(pairs.positives, pairs.negatives, pairs.answers, pairs.foils, strict=True)
    return [
        Pair(
            *_differences(positive, negative),
            [token_strings.get(token, f"token {token}") for token in answers],
            [token_strings.get(token, f"token {token}") for token in foils],
        )
        for positive, negative, answers, foils in rows
    ]


def _differences(a: str, b: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces that are the same in both or that differ; joined, a text is whole."""
    words_a, words_b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (a, b))
    steps = difflib.SequenceMatcher(None, words_a, words_b, autojunk=False).get_opcodes()
    left = [("".join(words_a[i:j]), tag != "equal") for tag, i, j, _, _ in steps if j > i]
    right = [("".join(words_b[i:j]), tag != "equal") for tag, _, _, i, j in steps if j > i]
    return left, right
