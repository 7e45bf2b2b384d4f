r"""How faithful circuits of the whole graph are: edges between heads, MLPs, embedding and logits.

As MIB judges them (arXiv 2504.13151): every reader reads, along edges of the circuit, what writers
write when the circuit alone runs, and along all others what they write on the paired negative
prompt (`resample`), or on average over negatives (`mean`), or nothing (`zero`). With m the task's
metric, averaged over held-out prompts,

    faithfulness(C) = (m(C) - m(no edges)) / (m(all edges) - m(no edges))

and CPR and CMD are its areas over MIB's ten sizes (`cpr_cmd.py`), as shares of all edges: by the
largest signed effects, and by the largest absolute ones, each less what joins nothing.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from circuits_jax import interpose
from circuits_jax.capture.ablation import Ablation, column_shares, goals, sides
from circuits_jax.circuits.circuit import Scores, top
from circuits_jax.circuits.graph import Graph, graph_of
from circuits_jax.circuits.graph_circuit import GraphCircuit, connected
from circuits_jax.decoder.batch import TokenBatch, stacked
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.evaluation.cpr_cmd import SIZES, cmd, cpr
from circuits_jax.evaluation.faithfulness import faithfulness
from circuits_jax.evaluation.masked_passes import in_chunks
from circuits_jax.evaluation.track import Track, silent
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs import devices, keys, mesh
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.precision import einsum
from circuits_jax.tasks import PromptPairs, Targets, Task, metric_values


@struct.dataclass
class GraphTrial:
    """Prompts, and what is read of every writer along edges that are cut."""

    batch: TokenBatch
    targets: Targets
    replacement: Float[Array, " writers #B #T D"]


def graph_trial(
    model: LanguageModel, pairs: PromptPairs, ablation: Ablation, metric: str
) -> GraphTrial:
    """Prepare pairs for judging circuits of the graph; tokens without a partner do not move."""
    positives, negatives = sides(model, pairs)
    replacement = _replacement(model.config, model.params, positives, negatives, ablation)
    return GraphTrial(positives, goals(model, pairs, metric), replacement)


@functools.partial(jax.jit, static_argnames=("config", "ablation"))
def _replacement(
    config: DecoderConfig,
    params: Any,
    positives: TokenBatch,
    negatives: TokenBatch,
    ablation: Ablation,
) -> Float[Array, " writers #B #T D"]:
    written = interpose.writes(config, params, stacked((negatives, positives)))
    if ablation == "zero":
        return jnp.zeros_like(written[:, :1, :1])
    negative, positive = jnp.split(written, 2, axis=1)
    said = jnp.where(negatives.mask[None, :, :, None], negative, positive)
    if ablation == "resample":
        return said
    return einsum("wbtd,bt->wtd", said, column_shares(positives, negatives))[:, None]


def graph_metrics(
    model: LanguageModel,
    prepared: GraphTrial,
    keep: Bool[np.ndarray, "M writers readers"],
    metric: str,
    track: Track = silent,
) -> Float[np.ndarray, "M B"]:
    """The task's metric for every mask of edges that are kept, and every prompt.

    One mask at a time on each device: about two forward passes, and what all writers write in
    memory.

    Raises:
        InputError: a metric that is not finite.
    """

    def of_chunk(masks):
        return (_metric_under(model.config, model.params, prepared, masks, metric),)

    chunk = devices.mesh().shape[devices.DATA]
    (values,) = in_chunks(of_chunk, keep, chunk, track, "choices of edges judged")
    if not np.isfinite(values).all():
        mask, prompt = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"the metric of held-out prompt {prompt} is not finite where some edges are cut (choice"
            f" {mask} of {len(keep)}); check the model's weights, or load it in float32"
        )
    return values


@functools.partial(jax.jit, static_argnames=("config", "metric"))
def _metric_under(config, params, prepared, keep, metric):
    """The metric for every mask, before it is gathered."""

    def judge(keep, constants):
        params, prepared = constants
        logits = interpose.replace_graph(config, params, prepared.batch, keep, prepared.replacement)
        return metric_values(logits, prepared.targets, metric)

    return mesh.spread(judge, keep, (params, prepared), 1)


@dataclasses.dataclass(frozen=True)
class GraphJudgement:
    """The metric on held-out prompts with only some edges of the graph kept.

    Attributes:
        ablation: what is read along the other edges.
        kept: `circuit`, or `random`: as many edges into the same nodes.
        n_edges: how many edges are kept.
        metric, faithfulness: means over prompts, and over circuits where random.
        spread: standard deviation of the faithfulness over random circuits; 0 elsewhere.
    """

    ablation: str
    kept: str
    n_edges: int
    metric: float
    faithfulness: float
    spread: float = 0.0


def evaluate_graph(
    model: LanguageModel,
    task: Task,
    circuit: GraphCircuit,
    key: jax.Array | int | None = None,
    *,
    ablations: tuple[Ablation, ...] = ("resample",),
    n_random: int = 3,
    track: Track = silent,
) -> list[GraphJudgement]:
    """Judge a circuit of the graph, and random ones of the same nodes, on held-out prompts.

    Args:
        model: a loaded model.
        task: its held-out pairs judge.
        circuit: what `graph_circuit` cut.
        key: of the random circuits: a seed, or a key; default seed 0.
        ablations: what is read along edges that are cut.
        n_random: random circuits: the same nodes, and as many of all the edges among them.
        track: shows progress.

    Raises:
        InputError: a circuit of another model, or `n_random` below 0.
    """
    if circuit.graph != graph_of(model.config):
        raise InputError(f"the circuit is of {circuit.graph}; the model's is another graph")
    check_allowed("n_random", n_random, Range(0))
    key = keys.stream(key, "evaluation")
    whole, none = np.ones_like(circuit.edges), np.zeros_like(circuit.edges)
    masks = np.stack([whole, none, circuit.edges, *random_graphs(key, circuit, n_random)])
    found = []
    for ablation in ablations:
        prepared = graph_trial(model, task.held_out, ablation, task.metric)
        values = graph_metrics(model, prepared, masks, task.metric, track).mean(axis=1)
        full, nothing = float(values[0]), float(values[1])
        for kept, some in (("circuit", values[2:3]), ("random", values[3:])):
            if len(some):
                share = faithfulness(some, full, nothing)
                numbers = some.mean(), share.mean(), share.std()
                found.append(GraphJudgement(ablation, kept, circuit.size, *map(float, numbers)))
    return found


def told(record: Mapping[str, Any]) -> list[str]:
    """The key `graph` of circuit.json as sentences, one for each ablation."""
    graph = Graph(record["n_layers"], record["n_heads"], record["parallel"])
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in record["judgements"]:
        rows.setdefault(one["ablation"], {})[one["kept"]] = one
    kinds = {"a": "head", "m": "MLP"}
    counts = {kind: sum(node.startswith(kind) for node in record["nodes"]) for kind in kinds}
    nodes = " and ".join(f"{n} {kinds[kind]}{'s' * (n != 1)}" for kind, n in counts.items())
    lines = []
    for ablation, row in rows.items():
        line = (
            f"{len(record['edges']):,} of the graph's {graph.is_edge.sum():,} edges, among {nodes},"
            f" keep a faithfulness of {row['circuit']['faithfulness']:z.2f} ({ablation})"
        )
        if "random" in row:
            share, spread = row["random"]["faithfulness"], row["random"]["spread"]
            line += f"; as many random ones among the same nodes {share:z.2f} \u00b1 {spread:z.2f}"
        lines.append(line)
    return lines


def random_graphs(
    key: jax.Array, circuit: GraphCircuit, n: int
) -> Iterator[Bool[np.ndarray, "writers readers"]]:
    """`n` random choices of as many of the edges among the circuit's nodes."""
    graph = circuit.graph
    inside = np.isin(graph.nodes, circuit.nodes)
    among = graph.is_edge & inside[:-1, None] & inside[graph.reader_nodes][None]
    for i in range(n):
        order = np.asarray(jax.random.uniform(jax.random.fold_in(key, i), among.shape))
        yield top(np.where(among, order, -1.0), circuit.size) & among


@dataclasses.dataclass(frozen=True)
class EdgeAreas:
    """CPR and CMD of a ranking of edges, and the faithfulness that they are areas of.

    Attributes:
        cpr: higher is better.
        cmd: 0 is best.
        by_sign: at MIB's sizes, of the largest signed effects.
        by_size: of the largest absolute ones.
    """

    cpr: float
    cmd: float
    by_sign: tuple[float, ...]
    by_size: tuple[float, ...]


def edge_areas(
    model: LanguageModel, task: Task, scores: Scores, ablation: Ablation = "resample"
) -> EdgeAreas:
    """CPR and CMD by edges, as MIB computes them, on the held-out prompts; 22 masks of edges.

    Raises:
        InputError: scores that are not of all edges.
    """
    graph = graph_of(model.config)
    prepared = graph_trial(model, task.held_out, ablation, task.metric)
    masks = area_edges(graph, scores)
    ends = np.stack([np.ones_like(graph.is_edge), np.zeros_like(graph.is_edge)])
    values = graph_metrics(model, prepared, np.concatenate([ends, *masks]), task.metric)
    full, nothing, *rest = values.mean(axis=1)
    by_sign, by_size = faithfulness(np.array(rest), float(full), float(nothing)).reshape(2, -1)
    return EdgeAreas(cpr(by_sign), cmd(by_size), tuple(by_sign.tolist()), tuple(by_size.tolist()))


def area_edges(graph: Graph, scores: Scores) -> Bool[np.ndarray, "2 S writers readers"]:
    """Edges kept at every size: by signed effect for CPR, then by absolute effect for CMD."""
    counts = [int(share * graph.is_edge.sum()) for share in SIZES]
    effects = np.asarray(scores.details["graph_effects"])
    ranked = [np.where(graph.is_edge, by, -np.inf) for by in (effects, np.abs(effects))]
    return np.stack([[connected(graph, top(by, n)) for n in counts] for by in ranked])
