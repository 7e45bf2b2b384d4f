"""The page on runs side by side: which heads they share, and what differs."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from circuits_jax.report import figures, page


def render(
    record: Mapping[str, Any], links: Mapping[str, str], shape: tuple[int, int] | None
) -> str:
    """The page as HTML; like the report of a run, it loads nothing from anywhere.

    Args:
        record: what `jobs.diff` found.
        links: name of a run -> address of its page.
        shape: (L, H) of all models, for the map of heads; None where they differ.
    """
    names = [one["name"] for one in record["runs"]]
    ablations = list(dict.fromkeys(name for one in record["runs"] for name in one["faithfulness"]))
    heads = [
        row
        | {
            "name": f"{row['layer']}.{row['head']}",
            "held": [name for name in names if row["ranks"][name]],
        }
        for row in record["heads"]
    ]
    rows = [{"head": row["name"]} | row["ranks"] for row in heads]
    return page.render(
        "diff.html",
        figures.FILTERS | {"quoted": quote},
        names=names,
        runs=record["runs"],
        links=links,
        ablations=ablations,
        pairs=record["pairs"],
        heads=heads,
        map=figures.grid(shape, 250, (11, 26)) if shape else None,
        heads_csv=page.csv_link("shared-heads", rows) if rows else "",
    )
