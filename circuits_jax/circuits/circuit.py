"""Scores of heads and edges, and the circuit that a threshold or a size cuts from them."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from circuits_jax.runs import files
from circuits_jax.runs.checks import Range, check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import task_warning

SCHEMA, SCHEMA_VERSION = "circuits_jax/circuit", 1
NOISE = 1e-4  # of the largest score: what float32 through many layers leaves of nothing


@dataclasses.dataclass(frozen=True)
class Circuit:
    """The heads and the directed edges that do a task.

    Attributes:
        heads: which heads are in.
        edges: [g, g'], head g writes what head g' of a later layer reads; both are in.
        head_scores, edge_scores: what they were chosen by; higher = in the circuit.
        rule: how they were chosen, such as {"size": 68}.
    """

    heads: Bool[np.ndarray, "L H"]
    edges: Bool[np.ndarray, "G G"]
    head_scores: Float[np.ndarray, "L H"]
    edge_scores: Float[np.ndarray, "G G"]
    rule: Mapping[str, int | float]

    @property
    def size(self) -> int:
        """Number of heads."""
        return int(self.heads.sum())

    @property
    def asked(self) -> int:
        """Heads that were asked for: more than `size` where the others score no more than noise."""
        return int(self.rule.get("size", self.size))

    def __repr__(self) -> str:
        layers, width = self.heads.shape
        best = ", ".join(f"{layer}.{head}" for layer, head in self.ranked_heads()[:5])
        return (
            f"Circuit({self.size} of {layers} x {width} heads, {int(self.edges.sum())} edges; "
            f"strongest heads: {best or 'none'})"
        )

    def ranked_heads(self) -> list[tuple[int, int]]:
        """(layer, head) of the circuit's heads, best first."""
        order = best_first(self.head_scores)
        inside = order[self.heads.reshape(-1)[order]]
        return [divmod(int(g), self.heads.shape[1]) for g in inside]

    def ranked_edges(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """((layer, head), (layer, head)) of the circuit's edges, best first."""
        width = self.heads.shape[1]
        pairs = np.argwhere(self.edges)
        order = best_first(self.edge_scores[self.edges])
        return [(divmod(int(a), width), divmod(int(b), width)) for a, b in pairs[order]]

    def to_json(self) -> dict[str, Any]:
        """The circuit in the schema that `save` documents."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "sign": "higher = in the circuit",
            "rule": dict(self.rule),
            "n_layers": self.heads.shape[0],
            "n_heads": self.heads.shape[1],
            "heads": [
                {"layer": layer, "head": head, "score": float(self.head_scores[layer, head])}
                for layer, head in self.ranked_heads()
            ],
            "edges": [
                {"from": list(a), "to": list(b), "score": float(self.edge_scores[self._pair(a, b)])}
                for a, b in self.ranked_edges()
            ],
        }

    def _pair(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        width = self.heads.shape[1]
        return a[0] * width + a[1], b[0] * width + b[1]

    def save(self, path: str | Path, **about: Any) -> None:
        """Write the circuit as JSON.

        Schema, version 1: `schema`, `version`, `sign` ("higher = in the circuit"), `rule` (how the
        heads were chosen), `n_layers`, `n_heads`; `heads`, best first, each with `layer`, `head`
        (from 0) and `score`; `edges`, best first, each with `from` and `to` ([layer, head]) and
        `score`; and whatever is given in `about`, such as `model`, `warnings`, `evaluation`, which
        stands before the heads.

        Raises:
            InputError: the file cannot be written.
        """
        record = self.to_json()
        head = {name: record.pop(name) for name in ("schema", "version", "sign")}
        files.write_json(Path(path), head | about | record)


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit that `Circuit.save` wrote; scores outside the circuit come back as 0.

    Raises:
        InputError: no such file, no JSON, another schema or version, or a field missing.
    """
    record = files.read_json(Path(path))
    found = (record.get("schema"), record.get("version")) if isinstance(record, dict) else None
    if found != (SCHEMA, SCHEMA_VERSION):
        raise InputError(
            f"{path} is of schema and version {found}; allowed is {(SCHEMA, SCHEMA_VERSION)}"
        )
    try:
        shape = record["n_layers"], record["n_heads"]
        n = shape[0] * shape[1]
        head_scores, edge_scores = np.zeros(shape, np.float32), np.zeros((n, n), np.float32)
        heads, edges = np.zeros(shape, bool), np.zeros((n, n), bool)
        for row in record["heads"]:
            g = np.ravel_multi_index((row["layer"], row["head"]), shape)  # refuses what is outside
            heads.flat[g], head_scores.flat[g] = True, _finite(row["score"])
        for row in record["edges"]:
            pair = tuple(np.ravel_multi_index(row[end], shape) for end in ("from", "to"))
            edges[pair], edge_scores[pair] = True, _finite(row["score"])
        return Circuit(heads, edges, head_scores, edge_scores, dict(record["rule"]))
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path} is not a whole circuit file ({error!r})") from error


def _finite(score: float) -> float:
    """The score; ValueError where it ranks nothing."""
    if not abs(float(score)) <= np.finfo(np.float32).max:
        raise ValueError(f"a score of {score}")
    return float(score)


@struct.dataclass
class Scores:
    """What a method says of every head and of every directed pair of heads.

    Attributes:
        head_scores: higher = in the circuit.
        edge_scores: [g, g'], head g of an earlier layer to head g' of a later one; 0 elsewhere.
        details: further arrays that the method has to show, by name, such as `codes`. `noise` is
            the score up to which a head says nothing, where that is not `NOISE` of the largest.
    """

    head_scores: Float[Array | np.ndarray, "L H"]
    edge_scores: Float[Array | np.ndarray, "G G"]
    details: Mapping[str, Any] = struct.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write head_scores [L, H], edge_scores [G, G] and the details as scores.npz."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"head_scores": self.head_scores, "edge_scores": self.edge_scores}
        np.savez_compressed(buffer, **arrays, **self.details)
        files.write(path, buffer.getvalue())

    def check_finite(self, source: str) -> None:
        """Refuse scores that cannot be ranked.

        Raises:
            InputError: a score is NaN or infinite; `source` says whose it is.
        """
        width = np.shape(self.head_scores)[-1]
        for name, scores in (("head", self.head_scores), ("edge", self.edge_scores)):
            wrong = np.argwhere(~np.isfinite(np.asarray(scores)))
            if len(wrong):
                at = [wrong[0]] if name == "head" else [divmod(g, width) for g in wrong[0]]
                where = " to ".join(f"layer {layer} head {head}" for layer, head in at)
                raise InputError(
                    f"{source}: the {name} score of {where} is not finite, and so are {len(wrong)}"
                    f" of {np.size(scores)}; nothing is ranked by them"
                )
        noise = self.details.get("noise")
        if noise is not None and not np.isfinite(noise):
            raise InputError(f"{source}: noise is {noise}; no score is above or below it")

    def circuit(
        self,
        size: int | None = None,
        threshold: float | None = None,
        n_edges: int | None = None,
    ) -> Circuit:
        """The circuit of the `size` best heads, or of the heads that score above `threshold`.

        A score of 0 says nothing for a head, and one that is no more than rounding noise (`NOISE`
        of the largest, in size) says no more: such a head is never taken, nor is one below 0 for a
        size. So there may be fewer heads than were asked for.

        Args:
            size: number of heads; ties go to the earlier head. Default: a quarter of all heads.
            threshold: in place of a size.
            n_edges: the best edges between those heads, at most this many and none of score 0 or
                of noise; default: as many as heads.

        Raises:
            InputError: both size and threshold, a size that is not in 0 ... G, n_edges below 0, or
                scores that are not finite.

        Warns:
            TaskWarning: fewer heads than were asked for.
        """
        self.check_finite("scores")
        head_scores = np.asarray(self.head_scores)
        edge_scores = np.asarray(self.edge_scores)
        noise = self.details.get("noise")
        noise = None if noise is None else float(noise)
        if size is not None and threshold is not None:
            raise InputError(f"size ({size}) and threshold ({threshold}) were given; give one")
        if threshold is not None:
            check_allowed("threshold", threshold, Range())
            real = above_noise(np.abs(head_scores), noise)
            heads, rule = (head_scores > threshold) & real, {"threshold": float(threshold)}
        else:
            size = round(head_scores.size / 4) if size is None else size
            check_allowed("size", size, Range(0, head_scores.size, whole=True))
            real = above_noise(head_scores, noise)
            heads, rule = (
                top(np.where(real, head_scores, -np.inf), size) & real,
                {"size": int(size)},
            )
            if heads.sum() < size:
                task_warning.warn([fewer_heads(int(heads.sum()), int(size))])
        inside = heads.reshape(-1)
        candidates = np.where(inside[:, None] & inside[None, :], edge_scores, 0)
        n_edges = int(heads.sum()) if n_edges is None else n_edges
        check_allowed("n_edges", n_edges, Range(0))
        real = candidates > NOISE * np.max(np.abs(edge_scores), initial=0)
        edges = top(candidates, min(n_edges, edge_scores.size)) & real
        return Circuit(heads, edges, head_scores, edge_scores, rule)

    def ranked_spans(self, size: int | None = None) -> list[tuple[int, int, str]]:
        """(layer, head, span) of the `size` best of them, best first; none that says nothing.

        Raises:
            InputError: the method was not asked for spans.
        """
        if "span_scores" not in self.details:
            raise InputError("these scores are not by token span; give the method spans='changed'")
        scores = np.asarray(self.details["span_scores"])
        names, real = self.details["span_names"], above_noise(scores).reshape(-1)
        places = (np.unravel_index(i, scores.shape) for i in best_first(scores) if real[i])
        found = [(int(layer), int(head), str(names[s])) for s, layer, head in places]
        return found[:size]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, np.shape(self.head_scores)))
        best = ""
        if not isinstance(self.head_scores, jax.core.Tracer):
            flat = np.asarray(self.head_scores)
            order = [tuple(np.unravel_index(g, flat.shape)) for g in best_first(flat)[:5]]
            best = "; strongest: " + ", ".join(f"{a}.{b} {flat[a, b]:.3g}" for a, b in order)
        details = f"; details: {', '.join(self.details)}" if self.details else ""
        return f"Scores({shape} heads{best}{details})"


def span_details(
    names: Sequence[str], effects: Float[Array | np.ndarray, "S L H"]
) -> dict[str, Any]:
    """The details of scores by token span, of signed effects or of sizes."""
    scores = np.abs(np.asarray(effects))
    return {"span_names": np.array(names, str), "span_effects": effects, "span_scores": scores}


def above_noise(
    scores: Float[np.ndarray, "..."], noise: float | None = None
) -> Bool[np.ndarray, "..."]:
    """Scores that say something: above `noise`, by default `NOISE` of the largest in size."""
    if noise is None:
        noise = NOISE * float(np.max(np.abs(scores), initial=0))
    return scores > noise


def fewer_heads(size: int, asked: int) -> str:
    """The sentence on heads that were asked for and are not there."""
    return (
        f"the circuit has {size} of the {asked} heads asked for: no other head's score is above "
        "rounding noise"
    )


def best_first(scores: Float[np.ndarray, "..."]) -> np.ndarray:
    """Flat indices by falling score; ties go to the earlier one."""
    return np.argsort(-np.asarray(scores).reshape(-1), kind="stable")


def top(scores: Float[np.ndarray, "..."], size: int) -> Bool[np.ndarray, "..."]:
    """True at the `size` largest scores; ties go to the earlier one."""
    chosen = np.zeros(scores.size, bool)
    chosen[best_first(scores)[:size]] = True
    return chosen.reshape(scores.shape)


def load_scores(path: Path) -> Scores:
    """What `Scores.save` wrote.

    Raises:
        InputError: no such file, one that is damaged or something else, or a score in it that is
            not finite.
    """
    details = files.read_arrays(path)
    try:
        scores = Scores(details.pop("head_scores"), details.pop("edge_scores"), details)
        scores.check_finite(str(path))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not hold scores ({error!r})") from error
    return scores
