"""What every page is made of: templates, and figures in the page's colours with their numbers.

A page is one file that opens from disk: no script, style, font or picture is loaded from anywhere.
It is whole without JavaScript, which adds hovering, sorting and files to download. A figure is an
SVG drawn by matplotlib whose colours are variables of `page.css`, so that one drawing serves a
light and a dark page; it has a title for screen readers, and a CSV of what it draws.
"""

import base64
import csv
import datetime
import html
import io
import re
import urllib.parse
import xml.sax.saxutils
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits_jax.runs.files import write

VARIABLES = ("ink", "soft", "line", "card", *(f"series-{n}" for n in range(28)))
COLOURS = {name: f"#f0f0{number:02x}" for number, name in enumerate(VARIABLES)}  # stand for them
LARGE, SMALL = (5.6, 3.5), (4.3, 2.9)  # inches, of two and of three figures a line
SHRINK = {"shrinkA": 0, "shrinkB": 0}
TIP = "tip-"  # begins the ids of points that `hover` puts


def series(number: int) -> str:
    """Colour of a series, for matplotlib; the page says what `--series-NUMBER` is."""
    return COLOURS[f"series-{number}"]


def render(template: str, filters: Mapping[str, Callable], /, **context: Any) -> str:
    """A page as HTML; names and texts of others are escaped.

    Args:
        template: a file of this room's templates.
        filters: of the template, besides jinja's own.
        context: what it reads; a name that is missing is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(context)


def index_runs(workdir: Path) -> None:
    """Lists all runs beside this one, newest first, in `index.html`, if their folder is `runs`."""
    runs = workdir.resolve().parent
    if runs.name != "runs":  # a folder of another name may hold anything
        return
    pages = sorted(runs.glob("*/report.html"), key=lambda path: -path.stat().st_mtime)
    listed = []
    for path in pages:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = re.search(r"<title>(.*?)</title>", file.read(4000), re.S)
        made = datetime.datetime.fromtimestamp(path.stat().st_mtime)
        title = html.unescape(found[1]) if found else ""
        listed.append((path.parent.name, title, f"{made:%Y-%m-%d %H:%M}"))
    write(runs / "index.html", render("index.html", {"quoted": urllib.parse.quote}, runs=listed))


def figure(
    draw: Callable,
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]] = (),
    size: tuple[float | int, float | int] = LARGE,
    right: float | int = 0.56,
) -> str:
    """An SVG of one pair of axes, with a title and a link to its numbers.

    Args:
        draw: takes matplotlib's axes; its colours are of `COLOURS`.
        name: unique on the page, and the name of files that are downloaded.
        title: what a screen reader says.
        rows: what is drawn, for the CSV; the keys of the first are its columns.
        size: inches of 72 px.
        right: inches left free at the right, for words beside the lines.

    Returns:
        Markup that needs no escaping. The same input gives the same text.
    """
    name = name.replace("/", "-")
    drawing = _in_the_pages_colours(_drawn(draw, size, right), name)
    said = xml.sax.saxutils.quoteattr(title)
    head = f'<svg class="figure" role="img" aria-label={said} data-name="{name}" '
    return drawing.replace("<svg ", head, 1) + (csv_link(name, rows) if rows else "")


def hover(axes: Any, x: Any, y: Any, text: str, **look: Any) -> None:
    """A point that tells its values to who hovers over it; `look` is of matplotlib's plot."""
    look = {"marker": "o", "ms": 5, "ls": "", "mec": COLOURS["card"], "mew": 1} | look
    (point,) = axes.plot([x], [y], **look)
    texts = vars(axes.figure).setdefault("hover_texts", [])
    point.set_gid(f"{TIP}{len(texts)}")
    texts.append(text)


def label_lines(
    axes: Any, labels: Sequence[tuple[str, float | int, str]], gap: float = 0.055, x: float = 1.02
) -> list[float]:
    """Words right of the axes, (text, y, colour) each, moved apart so that none covers another.

    Args:
        axes: with the limits of y that they keep.
        labels: y in data.
        gap: smallest distance, a share of the axes' height.
        x: where words begin, a share of the axes' width.

    Returns:
        Where each stands, a share of the axes' height; within [0, 1] if they fit.
    """
    axes.set_ylim(axes.get_ylim())
    places = [axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1]
              for _, y, _ in labels]  # fmt: skip
    moved = spread(places, gap)
    for (text, _, colour), place, to in zip(labels, places, moved, strict=True):
        if abs(place - to) > 1e-3:
            axes.annotate(
                "", (1, place), (x, to), "axes fraction", "axes fraction",
                arrowprops={"arrowstyle": "-", "color": COLOURS["line"]} | SHRINK,
            )  # fmt: skip
        axes.text(x + 0.005, to, text, color=colour, va="center", transform=axes.transAxes)
    return moved


def spread(places: Sequence[float | int], gap: float) -> list[float]:
    """Places in [0, 1] moved apart to at least `gap`, in their order; within [0, 1] if they fit."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved, last = [float(place) for place in places], -gap
    for i in order:
        last = moved[i] = max(places[i], last + gap, 0.0)
    limit = max(1.0, gap * (len(places) - 1))
    for i in order[::-1]:
        limit = moved[i] = min(moved[i], limit)
        limit -= gap
    return moved


def csv_link(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A link that saves the rows as NAME.csv, without a server."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = base64.b64encode(text.getvalue().encode()).decode()
    link = f'<a download="{name}.csv" href="data:text/csv;base64,{data}">CSV</a>'
    return f'<p class="files" data-of="{name}">{link}</p>'


def _drawn(draw: Callable, size: tuple[float | int, float | int], right: float | int) -> str:
    """The SVG of matplotlib with the texts of `hover` as the titles of their points."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, soft = COLOURS["ink"], COLOURS["soft"]
    settings = {
        "svg.fonttype": "none", "font.size": 10, "svg.hashsalt": "page", "text.color": ink,
        "axes.labelcolor": soft, "axes.edgecolor": soft, "xtick.color": soft, "ytick.color": soft,
        "xtick.labelcolor": ink, "ytick.labelcolor": ink, "axes.linewidth": 0.8,
        "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        picture = Figure(figsize=size)
        width, height = size
        left, bottom = 0.68 / width, 0.5 / height  # inches that the axes' texts need
        axes = picture.add_axes((left, bottom, 1 - left - right / width, 1 - bottom - 0.1 / height))
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=COLOURS["line"], lw=0.8)
        axes.set_axisbelow(True)
        text = io.StringIO()
        picture.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue()
    drawing = re.sub("<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], flags=re.S)
    for number, said in enumerate(vars(picture).get("hover_texts", ())):
        group = f'<g id="{TIP}{number}">'
        title = f"<title>{xml.sax.saxutils.escape(said)}</title>"
        drawing = drawing.replace(group, group + title, 1)
    return drawing


def _in_the_pages_colours(drawing: str, name: str) -> str:
    """Ids begin with the figure's name, since a page holds several; colours become variables."""
    for before in ('id="', "url(#", 'href="#'):
        drawing = drawing.replace(before, f"{before}{name}-")
    for variable, colour in COLOURS.items():
        drawing = drawing.replace(colour, f"var(--{variable})")
    return drawing
