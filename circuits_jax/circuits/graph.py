"""The parts of a decoder as a graph: who writes to the residual stream, and who reads it.

Every part reads the sum of what earlier parts wrote, so each pair of an earlier writer and a later
reader is an edge (Elhage et al. 2021; Syed et al., arXiv 2310.10348). Writers are the embedding,
every head and every MLP. Readers are the queries, keys and values of every head, each MLP and the
logits. Names and order are those of the EAP-IG code (Hanna et al., arXiv 2403.17806) and of MIB:

    writers   input, then for each layer a{l}.h{h} and m{l}
    readers   for each layer a{l}.h{h}<q>, ...<k>, ...<v> and m{l}, then logits

An MLP reads the heads of its own layer, unless the two stand in parallel. A model without MLPs has
their nodes all the same; they write and read nothing.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from circuits_jax.decoder.config import DecoderConfig

INPUTS = "qkv"


@dataclasses.dataclass(frozen=True)
class Graph:
    """All edges of a decoder of L layers of H heads."""

    n_layers: int
    n_heads: int
    parallel: bool = False

    @property
    def writers(self) -> tuple[str, ...]:
        """Names of what writes: 1 + L (H + 1) of them."""
        layers = range(self.n_layers)
        return ("input", *(n for at in layers for n in (*self._heads(at), f"m{at}")))

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of what reads: L (3 H + 1) + 1 of them."""
        names = []
        for at in range(self.n_layers):
            names += [f"{head}<{part}>" for part in INPUTS for head in self._heads(at)]
            names.append(f"m{at}")
        return (*names, "logits")

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes: the writers, then the logits."""
        return (*self.writers, "logits")

    @property
    def reader_nodes(self) -> Int[np.ndarray, " readers"]:
        """Index among `nodes` of what each reader is part of."""
        layers = 1 + (self.n_heads + 1) * np.arange(self.n_layers)[:, None]
        inside = np.append(np.tile(np.arange(self.n_heads), 3), self.n_heads)
        return np.append((layers + inside[None]).reshape(-1), len(self.writers))

    def reads(self, edges: Bool[np.ndarray, "writers readers"]) -> Bool[np.ndarray, " nodes"]:
        """Nodes that some of the edges go into."""
        found = np.zeros(len(self.nodes), bool)
        found[self.reader_nodes[edges.any(axis=0)]] = True
        return found

    def mask(self, edges: Iterable[tuple[str, str]]) -> Bool[np.ndarray, "writers readers"]:
        """True at edges that are given as (writer, reader) by name."""
        places = [{name: i for i, name in enumerate(x)} for x in (self.writers, self.readers)]
        found = np.zeros([len(x) for x in places], bool)
        for edge in edges:
            found[tuple(place[name] for place, name in zip(places, edge, strict=True))] = True
        return found

    def _heads(self, layer: int) -> list[str]:
        return [f"a{layer}.h{head}" for head in range(self.n_heads)]

    @property
    def write_times(self) -> Int[np.ndarray, " writers"]:
        """When each writes: 0 for the embedding, then 1 + 2 l for heads and 2 + 2 l for MLPs."""
        layers = 1 + 2 * np.arange(self.n_layers)[:, None]
        times = layers + np.repeat([[0, 1]], [self.n_heads, 1], axis=1)
        return np.concatenate([[0], times.reshape(-1)])

    @property
    def is_edge(self) -> Bool[np.ndarray, "writers readers"]:
        """True where the writer comes before the reader."""
        layers = 1 + 2 * np.arange(self.n_layers)[:, None]
        mlp = 0 if self.parallel else 1
        times = layers + np.repeat([[0, mlp]], [3 * self.n_heads, 1], axis=1)
        read_times = np.concatenate([times.reshape(-1), [1 + 2 * self.n_layers]])
        return self.write_times[:, None] < read_times[None, :]

    @property
    def head_writers(self) -> Int[np.ndarray, " G"]:
        """Index of every head among the writers."""
        layers = 1 + (self.n_heads + 1) * np.arange(self.n_layers)[:, None]
        return (layers + np.arange(self.n_heads)[None]).reshape(-1)

    @property
    def mlp_writers(self) -> Int[np.ndarray, " L"]:
        """Index of every MLP among the writers."""
        return (self.n_heads + 1) * (1 + np.arange(self.n_layers))

    @property
    def head_readers(self) -> Int[np.ndarray, "3 G"]:
        """Index of every head's queries, keys and values among the readers."""
        starts = (3 * self.n_heads + 1) * np.arange(self.n_layers)[None, :, None]
        parts = self.n_heads * np.arange(3)[:, None, None]
        return (starts + parts + np.arange(self.n_heads)[None, None]).reshape(3, -1)


def graph_of(config: DecoderConfig) -> Graph:
    """The graph of a decoder."""
    return Graph(config.n_layers, config.n_heads, config.parallel)


def head_edges(
    graph: Graph, effects: Float[Array | np.ndarray, "writers readers"]
) -> Float[Array | np.ndarray, "G G"]:
    """From head to head: the sum over the queries, keys and values of the head that reads."""
    from_heads = effects[graph.head_writers]
    return sum(from_heads[:, readers] for readers in graph.head_readers)
