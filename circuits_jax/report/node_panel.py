"""What the page's script draws of every node: views of them as one compressed text.

JSON, deflated and in base64 (that of addresses), since a page opened from disk can read no file
beside it. What does not fit into `MOST_BYTES` is left out: pairs first, then the nodes that score
least. All of it is in the run's nodes.npz.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits_jax.evaluation.node_views import PARTS, NodeViews
from circuits_jax.tasks.base import Answer

MOST_BYTES = 1_200_000
SHADES = 255  # of a pattern


def packed(views: NodeViews, token_strings: Mapping[Answer, str]) -> str:
    """The text; `unpacked` gives its JSON back, and so does the page's script.

    Of each node, by name: `pattern` (of every prompt, rows of whole numbers up to `SHADES`; not of
    MLPs), `distance` and `read` (of every pair, by token), `adds` (of every prompt, to answer and
    foil), `most` and `least` (of every prompt, tokens with what is added), `sources` (of every
    pair, of each part the writers: name, share, token).
    """
    most, n_nodes = len(views.prompts) // 2, len(views.nodes)
    text = deflated(_record(views, token_strings, 1, n_nodes))
    while len(text) > MOST_BYTES and n_nodes > 1:
        n_nodes = max(1, int(0.95 * n_nodes * MOST_BYTES / len(text)))
        text = deflated(_record(views, token_strings, 1, n_nodes))
    for n_pairs in range(min(most, MOST_BYTES // len(text)), 1, -1):
        several = deflated(_record(views, token_strings, n_pairs, n_nodes))
        if len(several) <= MOST_BYTES:
            return several
    return text


def deflated(value: Any) -> str:
    """A value in terms of JSON as compressed text."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return base64.urlsafe_b64encode(zlib.compress(content.encode(), 9)).decode()


def unpacked(text: str) -> Any:
    """The value that `deflated` was given."""
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(text)))


def _record(
    views: NodeViews, token_strings: Mapping[Answer, str], n_pairs: int, n_nodes: int
) -> dict[str, Any]:
    whole = len(views.prompts) // 2
    prompts = [*range(n_pairs), *range(whole, whole + n_pairs)]
    sizes = (views.token_ids >= 0).sum(axis=1)
    numbers = {name: i for i, name in enumerate(views.writers)}

    def tokens(ids: np.ndarray, values: np.ndarray) -> list[list[list[Any]]]:
        """Of every prompt, tokens with what is added to them."""
        texts = [[token_strings.get(int(t), f"token {t}") for t in ids[p]] for p in prompts]
        added = (_shorts(values[p]) for p in prompts)
        return [[*map(list, zip(*row, strict=True))] for row in zip(texts, added, strict=True)]

    def sources(node: int, pair: int, part: int) -> list[list[Any]]:
        found = (x[node, pair, part] for x in (views.sources, views.passed, views.at))
        rows = zip(*found, strict=True)
        return [[str(views.writers[s]), _short(x), int(at)] for s, x, at in rows if s >= 0]

    def of_node(node: int, name: str) -> dict[str, Any]:
        is_head = ".h" in name
        pairs, parts = range(n_pairs), PARTS if is_head else ("in",)
        shades = np.rint(views.pattern[node] * SHADES).astype(int)
        record = {
            "distance": [_shorts(views.distance[node, b, : sizes[b]]) for b in pairs],
            "read": [_shorts(views.read[node, b, : sizes[b]]) for b in pairs],
            "adds": [_shorts(views.direct[p, numbers[name]]) for p in prompts],
            "most": tokens(views.most_ids[node], views.most[node]),
            "least": tokens(views.least_ids[node], views.least[node]),
            "sources": [{n: sources(node, b, i) for i, n in enumerate(parts)} for b in pairs],
        }
        pattern = [shades[p, : sizes[p], : sizes[p]].tolist() for p in prompts]
        return record | ({"pattern": pattern} if is_head else {})

    return {
        "pairs": n_pairs,
        "tokens": [views.tokens[p, : sizes[p]].tolist() for p in prompts],
        "logits": [_shorts(views.logits[p]) for p in prompts],
        "nodes": {str(name): of_node(i, name) for i, name in enumerate(views.nodes[:n_nodes])},
    }


def _short(value: Any) -> float:
    """Three significant digits: what the page shows."""
    return float(f"{float(value):.3g}")


def _shorts(values: np.ndarray) -> list[float]:
    return [_short(value) for value in values]
