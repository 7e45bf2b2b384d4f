"""What every node of a circuit does with the prompts: where it attends, moves, writes and reads.

What a reader of a circuit asks of a head, as numbers (`capture/node_passes.py` says of what), for
some of the pairs that the circuit was learnt from, positive and negative.

    views = view_nodes(model, task, circuit)
    views.pattern[views.index("a20.h0"), 0]     # of the first positive prompt, [T T]
"""

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from circuits_jax.capture.forked import fork
from circuits_jax.capture.node_passes import PairViews, chosen, pair_views
from circuits_jax.circuits.circuit import Circuit
from circuits_jax.circuits.graph import Graph, graph_of
from circuits_jax.decoder.batch import TokenBatch, stacked
from circuits_jax.evaluation.arguments import check_arguments
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs import devices, files
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError, unknown_name
from circuits_jax.tasks import PromptPairs, Task, tokens_of

PARTS = ("q", "k", "v")
MOST_NUMBERS = 2**24  # of all patterns: 64 MiB
N_TOKENS, N_SOURCES = 6, 6


@struct.dataclass
class NodeViews:
    """Of B pairs; prompts are the positives and then the negatives, of T tokens with padding last.

    Attributes:
        nodes: names (`circuits.graph`), such as a20.h0 and m3; the circuit's order, best first.
        writers: names of all that writes, and last `bias`.
        prompts, tokens: as text, "" for padding.
        token_ids: -1 for padding.
        pattern: how much of every token (last axis) a head reads at every other; 0 of an MLP.
        distance: how far the output moves at each token of the positive prompt, in units of the
            residual stream; 0 where the negative has no partner for it.
        read: how much of that is read, a share of what moves the prediction.
        direct: what each writer adds to the mean logit of the answers, and of the foils, less the
            mean over the vocabulary, after the last token. Their sum over writers is `logits`.
        logits: of answers and foils so, before a cap where the family has one.
        most_ids, most: the tokens that a node adds most to, after the last token, and how much.
        least_ids, least: that it takes most from.
        sources: of each part (q, k, v; an MLP's input stands first) the writers whose movement
            passes most through it, by number; -1 for none.
        passed: how much of it passes on to the prediction, a share as `read` is.
        at: the token of the positive prompt where most of it does.
    """

    nodes: np.ndarray
    writers: np.ndarray
    prompts: np.ndarray
    tokens: np.ndarray
    token_ids: Int[np.ndarray, "B2 T"]
    pattern: Float[np.ndarray, "nodes B2 T T"]
    distance: Float[np.ndarray, "nodes B T"]
    read: Float[np.ndarray, "nodes B T"]
    direct: Float[np.ndarray, "B2 writers 2"]
    logits: Float[np.ndarray, "B2 2"]
    most_ids: Int[np.ndarray, "nodes B2 _"]
    most: Float[np.ndarray, "nodes B2 _"]
    least_ids: Int[np.ndarray, "nodes B2 _"]
    least: Float[np.ndarray, "nodes B2 _"]
    sources: Int[np.ndarray, "nodes B 3 _"]
    passed: Float[np.ndarray, "nodes B 3 _"]
    at: Int[np.ndarray, "nodes B 3 _"]

    def __repr__(self) -> str:
        return f"NodeViews({len(self.nodes)} nodes, {len(self.prompts) // 2} pairs of prompts)"

    def index(self, node: str) -> int:
        """Number of a node.

        Raises:
            InputError: there is no view of it.
        """
        if node not in self.nodes:
            raise InputError(unknown_name("node", node, list(self.nodes)))
        return int(np.argmax(self.nodes == node))

    def save(self, path: Path) -> None:
        """Write all fields as arrays of an npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **vars(self))
        files.write(path, buffer.getvalue())


def load_node_views(path: str | Path) -> NodeViews:
    """What `NodeViews.save` wrote.

    Raises:
        InputError: no such file, one that is damaged or something else, or a number in it that is
            not finite.
    """
    fields = files.read_arrays(Path(path))
    for name, values in fields.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0].tolist()
            raise InputError(f"{path}: {name} holds {values[tuple(place)]} at {place}")
    try:
        return NodeViews(**fields)
    except TypeError as error:
        raise InputError(f"{path} does not hold views of nodes ({error})") from error


def view_nodes(
    model: LanguageModel,
    task: Task,
    nodes: Circuit | Sequence[str],
    n_pairs: int = 5,
) -> NodeViews:
    """Look at the nodes of a circuit, or at others, on pairs that the circuit was learnt from.

    Args:
        model: a loaded model.
        task: its first `learn` pairs are looked at.
        nodes: a circuit, or names of heads and MLPs, such as "a20.h0" and "m3".
        n_pairs: at most so many pairs; fewer, and fewer nodes (the last ones are left out), where
            their patterns would be more than `MOST_NUMBERS` numbers.

    Raises:
        InputError: a node that the model does not have, or a number that is not finite.
    """
    check_arguments(model=model, task=task)
    check_allowed("n_pairs", n_pairs, Range(1))
    graph = graph_of(model.config)
    names = named(nodes) if isinstance(nodes, Circuit) else list(nodes)
    numbers = {name: number for number, name in enumerate(graph.writers)}
    for name in names:
        if name not in numbers or name == "input":
            raise InputError(unknown_name("node", name, list(numbers)[1:]))
    pairs = task.learn[:n_pairs]
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    of_one = 2 * sides[0].tokens.shape[1] ** 2
    names = names[: max(MOST_NUMBERS // of_one, 1)]
    pairs = pairs[: max(MOST_NUMBERS // (of_one * max(len(names), 1)), 1)]
    writers = np.array([numbers[name] for name in names], int)
    places, counted = chosen(model.config, writers), answer_weights(pairs, model.config.vocab_size)
    n_sources = min(N_SOURCES, len(numbers))
    n_tokens = min(N_TOKENS, model.config.vocab_size)
    views = []
    for i in range(len(pairs)):
        row = [jax.tree.map(lambda x, i=i: x[i : i + 1], side) for side in sides]
        batch = fork(stacked(row), row[0].tokens.shape[1])
        given = batch, places, read_from(graph), counted[i], n_tokens, n_sources
        views.append(pair_views(model.config, model.params, *given))
    found = _joined(
        devices.fetched(views), [jax.tree.map(lambda x: x[: len(pairs)], side) for side in sides]
    )
    for name, values in found.items():
        if not np.isfinite(values).all():
            told = model.first_not_finite([*pairs.positives, *pairs.negatives])
            raise InputError(told or f"{name} of the circuit's nodes is not finite")
    ids = found["token_ids"]
    texts = {int(t): model.tokenizer.decode([int(t)]) for t in np.unique(ids[ids >= 0])} | {-1: ""}
    return NodeViews(
        nodes=np.array(names, str),
        writers=np.array([*graph.writers, "bias"]),
        prompts=np.array([*pairs.positives, *pairs.negatives]),
        tokens=np.vectorize(texts.get, otypes=[str])(ids),
        **found,
    )


def named(circuit: Circuit) -> list[str]:
    """Names of a circuit's heads, best first."""
    return [f"a{layer}.h{head}" for layer, head in circuit.ranked_heads()]


def read_from(graph: Graph) -> np.ndarray:
    """[2 L writers]: which writers a layer's heads, and its MLP, read."""
    first = graph.readers.index
    heads = [first(f"a{layer}.h0<q>") for layer in range(graph.n_layers)]
    mlps = [first(f"m{layer}") for layer in range(graph.n_layers)]
    return np.stack([graph.is_edge[:, heads].T, graph.is_edge[:, mlps].T])


def answer_weights(pairs: PromptPairs, vocab_size: int) -> Float[np.ndarray, "B 2 V"]:
    """How much every token counts as answer, and as foil: rows of sum 1; of 0 where there is none.

    The mean logit of several answers is what the metric `logit_diff` compares. Of several tokens
    the first counts: the others do not follow the prompt.
    """
    weights = np.zeros((len(pairs), 2, vocab_size), np.float32)
    for side, rows in enumerate((pairs.answers, pairs.foils)):
        for weight, row in zip(weights[:, side], rows, strict=True):
            for one in row:
                weight[tokens_of(one)[0]] += 1 / len(row)
    return weights


def _joined(views: Sequence[PairViews], sides: Sequence[TokenBatch]) -> dict[str, np.ndarray]:
    """Pairs together, and prompts from their first token on, padding last."""
    masks, ids = (
        np.concatenate([np.asarray(getattr(side, name)) for side in sides])
        for name in ("mask", "tokens")
    )
    width, n = masks.sum(axis=1).max(), len(views)
    order = np.argsort(~masks, axis=1, kind="stable")  # columns of tokens, then of padding
    place = np.argsort(order, axis=1)  # of a column among the tokens
    order = order[:, :width]
    real = np.take_along_axis(masks, order, axis=1)
    found = {name: np.stack([getattr(view, name) for view in views]) for name in PairViews._fields}
    for name in ("direct", "logits"):  # [B 2 ...]
        found[name] = np.concatenate([found[name][:, side] for side in (0, 1)])
    for name in ("pattern", "most_ids", "most", "least_ids", "least"):  # [B nodes 2 ...]
        found[name] = np.concatenate([found[name][:, :, side] for side in (0, 1)]).swapaxes(0, 1)
    for name in ("distance", "read", "sources", "passed", "at"):  # [B nodes ...]
        found[name] = found[name].swapaxes(0, 1)
    for name in ("distance", "read"):  # 0 where there is no token, as where there is no partner
        found[name] = np.take_along_axis(found[name], order[None, :n], axis=2)
    pattern = np.take_along_axis(found["pattern"], order[None, :, :, None], axis=2)
    pattern = np.take_along_axis(pattern, order[None, :, None, :], axis=3)
    found["pattern"] = pattern * real[None, :, :, None] * real[None, :, None, :]
    at = np.take_along_axis(
        place[None, :n], found["at"].reshape(-1, n, np.prod(found["at"].shape[2:])), axis=2
    )
    found["at"] = at.reshape(found["at"].shape)
    return found | {"token_ids": np.where(real, np.take_along_axis(ids, order, axis=1), -1)}
