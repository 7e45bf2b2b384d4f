"""What tracr compiled, as matrices; what it computes, and which edges of the graph that hangs on.

In numpy, one prompt at a time: compiled models are small, and their edges are judged here without
the decoder that they are written into.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits_jax.lm.alignment import aligned_columns

BOS = "compiler_bos"
Edge = tuple[str, str]  # writer and reader, named as in circuits/graph.py


@dataclasses.dataclass(frozen=True)
class Assembled:
    """What tracr compiled, as matrices over the components of the residual stream.

    Attributes:
        labels: names of the D components.
        embedding: token -> components.
        position_embedding: place -> components; the first token's is zero.
        read: components of the output.
        outputs: values of the output: one for each of `read`, or of the one number.
        categorical: whether the output is one of several components, or a number.
        heads: layer by layer, the q, k, v [D, _] and o [_, D] of every head.
        mlps: layer by layer, the weights [D, _] and [_, D], of no width where there is none.
    """

    labels: tuple[str, ...]
    embedding: dict[Any, Float[np.ndarray, " D"]]
    position_embedding: Float[np.ndarray, "P D"]
    read: tuple[int, ...]
    outputs: tuple[Any, ...]
    categorical: bool
    heads: tuple[tuple[dict[str, np.ndarray], ...], ...]
    mlps: tuple[tuple[np.ndarray, np.ndarray], ...]


def hangs_on(
    compiled: Assembled, pair: tuple[Sequence[Any], Sequence[Any]], edges: Iterable[Edge]
) -> frozenset[Edge]:
    """Those of the edges of which each, cut alone, changes the output at the last token.

    Along the edge that is cut, the reader reads what the writer writes for the other prompt, at
    tokens that have a partner there (`lm/alignment.py`).

    Args:
        compiled: the program.
        pair: tokens of the prompt that is run, and of the other one.
        edges: by name, heads by their number in `compiled`.
    """
    prompts = [[BOS, *tokens] for tokens in pair]
    ids = {token: number for number, token in enumerate(compiled.embedding)}
    columns = aligned_columns(*([ids[token] for token in prompt] for prompt in prompts))
    _, at, there = np.intersect1d(*columns, return_indices=True)
    written, output = run(compiled, prompts[0], {})
    other, _ = run(compiled, prompts[1], {})
    found = []
    for writer, reader in edges:
        change = np.zeros_like(written[writer])
        change[at] = other[writer][there] - written[writer][at]
        if np.abs(run(compiled, prompts[0], {reader: change})[1] - output).max() > 1e-3:
            found.append((writer, reader))
    return frozenset(found)


def run(
    compiled: Assembled, tokens: Sequence[Any], changes: dict[str, Float[np.ndarray, "T D"]]
) -> tuple[dict[str, Float[np.ndarray, "T D"]], Float[np.ndarray, " _"]]:
    """What every writer writes for a prompt, and the output at its last token.

    Args:
        compiled: the program.
        tokens: the prompt, the compiler's first token included.
        changes: of readers by name: what is added to the stream that they read.
    """
    embedding = np.stack([compiled.embedding[token] for token in tokens])
    stream = embedding + compiled.position_embedding[: len(tokens)]
    written = {"input": stream}
    for layer, (heads, mlp) in enumerate(zip(compiled.heads, compiled.mlps, strict=True)):
        before = stream
        for number, head in enumerate(heads):
            name = f"a{layer}.h{number}"
            q, k, v = ((before + changes.get(f"{name}<{p}>", 0)) @ head[p] for p in "qkv")
            scores = q @ k.T
            pattern = np.exp(scores - scores.max(axis=1, keepdims=True))
            z = pattern / pattern.sum(axis=1, keepdims=True) @ v
            written[name] = z @ head["o"]
            stream = stream + written[name]
        name = f"m{layer}"
        written[name] = np.maximum((stream + changes.get(name, 0)) @ mlp[0], 0) @ mlp[1]
        stream = stream + written[name]
    return written, (stream + changes.get("logits", 0))[-1, list(compiled.read)]
