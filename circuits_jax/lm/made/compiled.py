"""Compiled models: RASP programs as transformers, by `tracr` (arXiv 2301.05062).

tracr turns a program into attention heads and MLPs that read and write named components of the
residual stream, one for each value of each variable. This file lays them out as parameters of our
decoder: no norms, no causal mask, relu MLPs, the compiler's first token before every input. A layer
has as many heads as the widest has, and decoys (`decoys.py`) that read the stream and write to
components of their own; places that are left stay zero, and all are shuffled within a layer.

Logits are those of the program's output values. Of a categorical output, the components that hold
it; so the largest is tracr's decoded output. Of a number y, `2 v y - v^2` in units of the smallest
gap between two values: up to what is the same for all v, minus the squared distance from v to y.

The circuit: all heads that tracr laid out. Its edges: the heads that read a component which an
earlier head writes, or which is written by MLPs between them that read what that head writes. Its
edges in the graph, MLPs and embedding included: who reads a variable that the other writes, where
cutting that edge alone changes what is answered at the last token of some prompt.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from circuits_jax.decoder.batch import TokenBatch
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.made import decoys
from circuits_jax.lm.made.assembled import BOS, Assembled, Edge, hangs_on
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.compiled import drawn
from circuits_jax.tasks.ground_truth import GroundTruth, Head
from circuits_jax.tasks.programs import expression, find_program, numbers, word
from circuits_jax.tasks.words import WordTokenizer

N_DECOY = 16  # components that decoys write to
DECOYS = 2  # in a layer
_PAIRS = 200  # of prompts, of which none answers otherwise where an edge without use is cut


def load(name: str) -> LanguageModel:
    """A compiled model by its name: `tracr:PROGRAM[:DECOYS]`, such as tracr:reverse:2.

    DECOYS is their number in every layer, 2 unless given.

    Raises:
        InputError: an unknown program, or a number of decoys that is none.
    """
    program, _, n_decoys = name.removeprefix("tracr:").partition(":")
    if n_decoys and not n_decoys.isdecimal():
        raise InputError(f"model {name!r} has {n_decoys!r} decoys in a layer; a number is needed")
    compiled = assemble(program)
    return model(name, program, compiled, int(n_decoys or DECOYS))


def assemble(program: str) -> Assembled:
    """Compile a program of `tasks.programs`, as far as its heads and MLPs, without haiku.

    Raises:
        InputError: no such program, or tracr is not installed.
    """
    found = find_program(program)
    rasp_program = expression(found)
    from tracr.compiler import (
        basis_inference,
        craft_graph_to_model,
        expr_to_craft_graph,
        nodes,
        rasp_to_graph,
    )
    from tracr.craft import bases, transformers, vectorspace_fns
    from tracr.rasp import rasp

    graph = rasp_to_graph.extract_rasp_graph(rasp_program)
    basis_inference.infer_bases(graph.graph, graph.sink, set(found.vocabulary), found.max_length)
    bos = bases.BasisDirection(rasp.tokens.label, BOS)
    expr_to_craft_graph.add_craft_components_to_rasp_graph(graph.graph, bos_dir=bos)
    craft = craft_graph_to_model.craft_graph_to_model(graph.graph, graph.sources)

    def one_hot(label, values):
        return bases.VectorSpaceWithBasis.from_values(label, values)

    tokens = one_hot(rasp.tokens.label, {*found.vocabulary, BOS})
    places = one_hot(rasp.indices.label, range(found.max_length))
    output = bases.VectorSpaceWithBasis(graph.sink[nodes.OUTPUT_BASIS])
    stream = bases.join_vector_spaces(craft.residual_space, tokens, places, output)

    labels = list(map(str, stream.basis))
    order = sorted(range(len(labels)), key=lambda i: _natural(labels[i]))

    def into(space):
        """[D, d] from the stream to the components of a space."""
        return vectorspace_fns.project(stream, space).matrix[order]

    one = np.array([float(labels[i] == "one") for i in order])
    categorical = rasp.is_categorical(graph.sink[nodes.EXPR])
    values = [direction.value for direction in output.basis]
    heads, mlps = _layers(craft.blocks, transformers.MLP, into)
    return Assembled(
        labels=tuple(labels[i] for i in order),
        embedding={
            direction.value: row + one
            for direction, row in zip(tokens.basis, into(tokens).T, strict=True)
        },
        position_embedding=np.concatenate([np.zeros((1, len(one))), into(places).T]),
        read=tuple(np.argmax(into(output), axis=0).tolist()),
        outputs=tuple(values) if categorical else numbers(found),
        categorical=categorical,
        heads=heads,
        mlps=mlps,
    )


def _natural(label: str) -> list[str | int]:
    """Sorts by the numbers in a label as numbers: tracr counts all variables of a process."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", label)]


def _layers(blocks: Sequence[Any], mlp_type: Any, into: Any) -> tuple[tuple, tuple]:
    """Heads and MLP of every layer: a layer ends after an MLP, or before the next attention."""
    n_components = len(into(blocks[0].residual_space))
    no_mlp = np.zeros((n_components, 0)), np.zeros((0, n_components))
    heads: list[tuple[dict[str, np.ndarray], ...]] = []
    mlps = []
    for block in blocks:
        if isinstance(block, mlp_type):
            mlp = (
                into(block.fst.input_space) @ block.fst.matrix,
                block.snd.matrix @ into(block.snd.output_space).T,
            )
            if len(mlps) == len(heads):
                heads.append(())
            mlps.append(mlp)
            continue
        mlps += [no_mlp] * (len(heads) - len(mlps))
        heads.append(
            tuple(
                {
                    "q": into(head.w_qk.left_space) @ head.w_qk.matrix,
                    "k": into(head.w_qk.right_space),
                    "v": into(head.w_ov.input_space) @ head.w_ov.matrix,
                    "o": into(head.w_ov.output_space).T,
                }
                for head in block.as_multi().heads()
            )
        )
    mlps += [no_mlp] * (len(heads) - len(mlps))
    return tuple(heads), tuple(mlps)


def model(name: str, program: str, compiled: Assembled, n_decoys: int) -> LanguageModel:
    """The compiled program as a language model with `n_decoys` decoys in every layer."""
    words = (BOS, *sorted({word(v) for v in compiled.embedding if v != BOS}))
    words += tuple(w for w in dict.fromkeys(map(word, compiled.outputs)) if w not in words)
    config = _config(compiled, len(words), n_decoys)
    numbers = np.tile(np.arange(config.n_heads), (config.n_layers, 1))
    order = np.random.default_rng(0).permuted(numbers, axis=1)  # place of every head in its layer
    real = [(layer, i) for layer, heads in enumerate(compiled.heads) for i in range(len(heads))]
    head = {(layer, i): (layer, int(order[layer, i])) for layer, i in real}
    names = {
        (writer, reader): (_in_place(writer, order), _in_place(reader, order))
        for writer, reader in graph_edges(compiled)
    }
    used = _answering(compiled, program, frozenset(names))
    truth = GroundTruth(
        task="compiled",
        model=name,
        name="compilation",
        heads=frozenset(head.values()),
        source="tracr, arXiv 2301.05062",
        edges=frozenset((head[a], head[b]) for a, b in edges(compiled)),
        graph_edges=frozenset(edge for name, edge in names.items() if name in used),
    )
    uses = functools.partial(_uses, compiled, {name: names[name] for name in used})
    params = _params(config, compiled, words, head, order[:, config.n_heads - n_decoys :])
    return LanguageModel(name, config, params, WordTokenizer(words, program, truth, uses))


def _answering(compiled: Assembled, program: str, edges: frozenset[Edge]) -> frozenset[Edge]:
    """Those of the edges on which the answer hangs in some pair of prompts.

    What an MLP of `reverse` says at the last token, that the opposite place is the first, is so for
    every input: no prompt could tell that it is read.
    """
    found: frozenset[Edge] = frozenset()
    rows = drawn(np.random.default_rng(0), find_program(program))
    for positive, negative, *_ in itertools.islice(rows, _PAIRS):
        pair = _values(compiled, positive), _values(compiled, negative)
        found |= hangs_on(compiled, pair, edges - found)
        if found == edges:
            break
    return found


def _uses(
    compiled: Assembled, names: dict[Edge, Edge], positive: str, negative: str
) -> frozenset[Edge]:
    """Those of the edges on which the answer to a pair of prompts hangs, by their other names."""
    pair = _values(compiled, positive), _values(compiled, negative)
    return frozenset(names[edge] for edge in hangs_on(compiled, pair, names))


def _values(compiled: Assembled, prompt: str) -> list[Any]:
    """Input tokens of a prompt."""
    spelled = {word(value): value for value in compiled.embedding if value != BOS}
    return [spelled[name] for name in prompt.split()]


def _in_place(name: str, order: Int[np.ndarray, "L H"]) -> str:
    """The name of a writer or reader, a head's number being that of its place in its layer."""
    found = re.fullmatch(r"a(\d+)\.h(\d+)(.*)", name)
    if not found:
        return name
    layer, number, part = int(found[1]), int(found[2]), found[3]
    return f"a{layer}.h{order[layer, number]}{part}"


def _config(compiled: Assembled, n_words: int, n_decoys: int) -> DecoderConfig:
    heads = list(itertools.chain(*compiled.heads))
    key_size = max(max(h["q"].shape[1], h["v"].shape[1]) for h in heads)
    n_heads = max(map(len, compiled.heads)) + n_decoys
    return DecoderConfig(
        family="tracr",
        vocab_size=n_words,
        n_positions=len(compiled.position_embedding),
        n_layers=len(compiled.heads),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_width=key_size,
        d_model=len(compiled.labels) + N_DECOY + 1,
        d_mlp=max(fst.shape[1] for fst, _ in compiled.mlps) or 1,
        norm="none",
        activation="relu",
        attention_scale=1.0,
        learned_positions=True,
        causal=False,
    )


def _params(
    config: DecoderConfig,
    compiled: Assembled,
    words: tuple[str, ...],
    head: dict[Head, Head],
    decoy_places: np.ndarray,
) -> dict[str, Any]:
    """The decoder's parameters. Components: tracr's, then those of decoys, then a constant 1."""
    d, width = config.d_model, len(compiled.labels)
    components = jnp.arange(d)
    random = decoys.random_heads(
        jax.random.key(0), config, components < d - 1, (components >= width) & (components < d - 1)
    )
    decoy = np.zeros(config.heads, bool)
    np.put_along_axis(decoy, decoy_places, True, axis=1)
    attention = {n: np.array(random[n]) * decoy[:, None, :, None] for n in "qkv"}
    attention["o"] = np.array(random["o"]) * decoy[:, :, None, None]
    for (layer, i), (_, place) in head.items():
        for name, matrix in compiled.heads[layer][i].items():
            rows, columns = matrix.shape
            where = (place,) if name == "o" else (slice(None), place)
            attention[name][layer][where][:rows, :columns] = matrix
    up = np.zeros((config.n_layers, d, config.d_mlp), np.float32)
    down = np.zeros((config.n_layers, config.d_mlp, d), np.float32)
    for layer, (fst, snd) in enumerate(compiled.mlps):
        up[layer, :width, : fst.shape[1]], down[layer, : len(snd), :width] = fst, snd
    embedding = np.zeros((len(words), d), np.float32)
    for value, row in compiled.embedding.items():
        embedding[words.index(word(value)), :width] = row
    embedding[:, -1] = 1
    position = np.zeros((config.n_positions, d), np.float32)
    position[:, :width] = compiled.position_embedding
    params = {
        "embedding": embedding,
        "position_embedding": position,
        "unembedding": _unembedding(config, compiled, words),
        "layers": {"attention": attention, "mlp": {"up": up, "down": down}},
    }
    params = jax.tree.map(lambda x: jax.device_put(np.asarray(x, np.float32)), params)
    n_inputs = len(compiled.embedding)
    tokens = np.random.default_rng(0).integers(1, n_inputs, (32, config.n_positions))
    tokens[:, 0] = 0
    batch = TokenBatch(jnp.asarray(tokens, jnp.int32), jnp.ones(tokens.shape, bool))
    no_neurons = np.zeros((config.n_layers, config.d_mlp), bool)  # none of the MLPs' is a decoy's
    which = jnp.asarray(decoy), jnp.asarray(no_neurons)
    return jax.jit(decoys.calibrated, static_argnums=0)(config, params, batch, *which)


def _unembedding(
    config: DecoderConfig, compiled: Assembled, words: tuple[str, ...]
) -> Float[np.ndarray, "D V"]:
    """See the module: what makes logits of the residual stream."""
    weight = np.zeros((config.d_model, config.vocab_size), np.float32)
    if compiled.categorical:
        weight[list(compiled.read), [words.index(word(v)) for v in compiled.outputs]] = 1
        return weight
    by_word = {word(v): float(v) for v in compiled.outputs}  # equal but for rounding: one word
    values = np.array(list(by_word.values()))
    columns = [words.index(w) for w in by_word]
    gap = np.min(np.diff(np.sort(values)))
    weight[compiled.read[0], columns] = 2 * values / gap**2
    weight[-1, columns] = -(values**2) / gap**2
    weight[-1, [i for i in range(len(words)) if i not in columns]] = -1e6
    return weight


def edges(compiled: Assembled) -> Iterator[tuple[Head, Head]]:
    """Pairs ((layer, number), (later layer, number)) of heads where the second reads the first."""
    for a, row in enumerate(compiled.heads):
        for i, writer in enumerate(row):
            written = _written(compiled, a, writer)
            for b in range(a + 1, len(compiled.heads)):
                for j, reader in enumerate(compiled.heads[b]):
                    if np.any(_reads(reader) & written[b]):
                        yield (a, i), (b, j)


def graph_edges(compiled: Assembled) -> Iterator[Edge]:
    """Pairs (writer, reader) of the graph where the second reads a variable that the first writes.

    Names are those of `circuits/graph.py`, heads by their number in `compiled`. Of the embedding,
    what differs between input tokens or places counts: the rest is the same in all prompts. And a
    variable is read where its values are told apart.
    """
    tokens = np.stack([row for value, row in compiled.embedding.items() if value != BOS])
    varies = (np.ptp(rows, axis=0) != 0 for rows in (tokens, compiled.position_embedding))
    end = 2 * len(compiled.heads) + 1
    writers = [("input", 0, np.any(list(varies), axis=0))]
    readers = [("logits", end, np.isin(range(tokens.shape[1]), compiled.read))]
    for layer, heads in enumerate(compiled.heads):
        at = 2 * layer + 1
        for i, head in enumerate(heads):
            scores, values = head["q"] @ head["k"].T, head["v"] @ head["o"]
            writers.append((f"a{layer}.h{i}", at, np.any(values != 0, axis=0)))
            for part, rows in {"q": scores, "k": scores.T, "v": values}.items():
                readers.append((f"a{layer}.h{i}<{part}>", at, _told_apart(compiled, rows)))
        fst, snd = compiled.mlps[layer]
        writers.append((f"m{layer}", at + 1, np.any(snd != 0, axis=0)))
        readers.append((f"m{layer}", at + 1, _told_apart(compiled, fst)))
    for (writer, at, written), (reader, later, read) in itertools.product(writers, readers):
        if at < later and np.any(written & read):
            yield writer, reader


def _told_apart(compiled: Assembled, rows: Float[np.ndarray, "D _"]) -> Bool[np.ndarray, " D"]:
    """Components of variables whose values give different rows."""
    variables = np.array([label.partition(":")[0] for label in compiled.labels])
    moves = ~np.isin(compiled.labels, [f"tokens:{BOS}"])  # the first token is in every prompt
    read = np.zeros(len(rows), bool)
    for name in np.unique(variables):
        own = (variables == name) & moves
        values = rows[own] if own.sum() > 1 else np.concatenate([rows[own], 0 * rows[own]])
        read[own] = np.any(values != values[:1])
    return read


def _written(
    compiled: Assembled, layer: int, head: dict[str, np.ndarray]
) -> dict[int, Bool[np.ndarray, " D"]]:
    """For every later layer, and the end: the components that a head wrote, MLPs included."""
    written, at = np.any(head["v"] @ head["o"] != 0, axis=0), {}
    for later in range(layer, len(compiled.heads)):
        fst, snd = compiled.mlps[later]
        hidden = np.any(fst[written] != 0, axis=0)
        written = written | np.any(snd[hidden] != 0, axis=0)
        at[later + 1] = written
    return at


def _reads(head: dict[str, np.ndarray]) -> Bool[np.ndarray, " D"]:
    """The components on which a head's scores or values depend."""
    scores = head["q"] @ head["k"].T
    values = head["v"] @ head["o"]
    return np.any(scores != 0, axis=1) | np.any(scores != 0, axis=0) | np.any(values != 0, axis=1)
