"""The page of stage 2, `report.html`: claim by claim what holds on this data, and how we know.

One self-contained file that opens from disk, light or dark, and needs no JavaScript. What the
results lack is left out of it.
"""

import base64
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveation_jax.claims import comparisons, statistics, verdicts
from foveation_jax.claims.results import Claim, ClaimTable, ProbeResults, title
from foveation_jax.claims.results_files import mean_accuracy
from foveation_jax.probes.evaluate import PROBES
from foveation_jax.report import experiment_figures, overlay, page
from foveation_jax.report.experiment_figures import Style
from foveation_jax.report.stage1_page import TITLES, metric_table
from foveation_jax.runs.files import write
from foveation_jax.transforms.matched import TOLERANCE

# Families of probes that are drawn as curves: title, and a note below the figures.
FAMILIES = {
    "occlusion": ("Occlusion", ""),
    "frequency": (
        "Spatial frequency",
        "High-pass: the smaller sigma, the fewer low frequencies are left. Low-pass: the larger "
        "sigma, the fewer high ones.",
    ),
}
MIDDLE = "What is hidden or shown is the middle of the image, wherever it is looked at."
UNITS = {  # unit -> (factor, format, name)
    "accuracy": (100, "{:+.1f}", "points"),
    "area": (100, "{:+.1f}", "% area"),
    "squared": (1, "{:+.5f}", ""),
    "bits": (1, "{:+.3f}", "bits"),
}
NETWORKS = {"alexnet": "AlexNet", "resnet18": "ResNet18", "vgg11": "VGG11"}
SYMBOLS = {"holds": "✓", "fails": "✗", "undecided": "?"}


def write_report(results: ProbeResults, table: ClaimTable, workdir: pathlib.Path) -> pathlib.Path:
    """Writes WORKDIR/report.html; returns its path."""
    path = workdir / "report.html"
    write(path, render(results, table))
    return path


def render(results: ProbeResults, table: ClaimTable) -> str:
    """The page as HTML. It holds every claim, and no address of another resource."""
    look = experiment_figures.styles(results.systems)
    stage1 = results.experiment.get("config", {}).get("stage1", {})
    own = bool(stage1.get("fixations"))  # a file, of each image's own
    return page.render(
        "experiment.html",
        {"p_text": p_text, "title": title, "percent": percent},
        results=results,
        network=NETWORKS.get(results.network, results.network),
        look=look,
        lines={name: TITLES[name][1] for name in results.systems if name in TITLES},
        symbols=SYMBOLS,
        rule=verdicts.RULE,
        n_test=_n_test(results),
        unmatched=unmatched(results),
        accuracy=_accuracies(results),
        decided=[found for found in headlines(table) if not _open(found[2])],
        open=[found for found in headlines(table) if _open(found[2])],
        groups=[_group(number, table) for number in verdicts.HEADLINES if _of(number, table)],
        left_out=table.left_out,
        strips=_strips(results),
        marked=results.windows is not None,
        own=own,
        training=experiment_figures.training_figures(results.training, look, results.chance),
        families=_families(results, look),
        notes={family: note for family, (_, note) in FAMILIES.items()}
        | ({"occlusion": MIDDLE} if own else {}),
        conflicts=_conflicts(results, look),
        matrix=_matrix(results),
        dynamics=_dynamics(results, look),
        filters=_filters(results),
        confusion=_confusion(results),
        perceptual=_perceptual(results),
    )


def _n_test(results: ProbeResults) -> int:
    """Images that the networks were tested on, 0 if no matrix says."""
    return int(results.confusion[0].counts[0].sum()) if results.confusion else 0


def unmatched(results: ProbeResults) -> list[tuple[str, float, float]]:
    """(blur, its mean SSIM, the texture's) of blurs that do not lose as much as the texture.

    The comparison with a blur is one of equal compression only if their SSIM to Reference is equal.
    """
    means = {
        name: float(np.mean(panel["ssim"]))
        for name, panel in results.perceptual.items()
        if "ssim" in panel
    }
    target = means.get(comparisons.TEXTURE)
    if target is None:
        return []
    blurs = [name for name in comparisons.BLURS if name in means]
    return [(n, means[n], target) for n in blurs if round(abs(means[n] - target), 6) > TOLERANCE]


def _accuracies(results: ProbeResults) -> list[tuple[str, float, float]]:
    """(system, mean, deviation) of the systems whose accuracy is known."""
    deviations = {
        curve.system: float(statistics.deviation(curve.accuracy)[0])
        for curve in results.curves
        if curve.probe == f"generalization/{curve.system}"
    }
    means = mean_accuracy(results)
    return [(name, means[name], deviations[name]) for name in means if name in deviations]


def headlines(table: ClaimTable) -> list[tuple[str, str, dict[str, int], int]]:
    """(number, sentence, verdict -> count, how many hold after Holm's correction too) a number."""
    rows = []
    for number, sentence in verdicts.HEADLINES.items():
        members = _of(number, table)
        counts = {v: sum(claim.verdict == v for claim in members) for v in SYMBOLS}
        sure = sum(c.verdict == "holds" and c.p_holm < 1 - statistics.CONFIDENCE for c in members)
        if members:
            rows.append((number, sentence, counts, sure))
    return rows


def _open(counts: Mapping[str, int]) -> bool:
    """Whether none of a headline's claims has a verdict."""
    return not counts["holds"] and not counts["fails"]


def _of(number: str, table: ClaimTable) -> list[Claim]:
    return [claim for claim in table.claims if claim.number == number]


def _group(number: str, table: ClaimTable) -> dict[str, Any]:
    """A number's claims with their places in the forest, one scale a unit."""
    members = _of(number, table)
    rows = {}
    for unit in dict.fromkeys(claim.unit for claim in members):
        same = [claim for claim in members if claim.unit == unit]
        places, limit = experiment_figures.forest(same)
        for claim, place in zip(same, places, strict=True):
            scale = effect_text(limit, unit) if claim is same[0] else ""
            rows[claim.name] = (claim, place, scale, evidence(claim))
    return {
        "number": number,
        "sentence": verdicts.HEADLINES[number],
        "rows": [
            (*rows[claim.name], effect_text(claim.effect, claim.unit), interval_text(claim))
            for claim in members
        ],
    }


def effect_text(value: float | int, unit: str) -> str:
    """A signed effect with its unit; "undefined" for NaN."""
    factor, form, name = UNITS[unit]
    return f"{form.format(factor * value)} {name}".strip() if math.isfinite(value) else "undefined"


def interval_text(claim: Claim) -> str:
    """The ends of a claim's interval in the unit of its effect; "" where there is none."""
    return _ends(claim.interval, claim.unit)


def _ends(interval: Sequence[float | int], unit: str) -> str:
    factor, form, _ = UNITS[unit]
    if not all(math.isfinite(end) for end in interval):
        return ""
    return " to ".join(form.format(factor * end) for end in interval)


def p_text(p: float | int) -> str:
    """A p-value in three decimals or as "< .001"; a dash where there is no test."""
    if not math.isfinite(p):
        return "-"
    return "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)


def percent(value: float | int) -> str:
    """A fraction as percent, one decimal; a dash for NaN."""
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def evidence(claim: Claim) -> list[tuple[str, str]]:
    """(what, number) behind a claim, in words; numbers that are not defined are left out."""
    found, facts = claim.evidence, []
    for name in (claim.above, claim.below):
        if name in found:
            facts.append((title(name), _values_text(found[name], claim.unit)))
    if claim.margin is not None:
        facts.append(("margin", _ends((-claim.margin, claim.margin), claim.unit)))
    if "share_of_own_accuracy" in found:
        share = effect_text(found["share_of_own_accuracy"], "accuracy")
        ends = _ends(found["share_interval"], "accuracy")
        text = f"{share} ({ends})" if ends else share
        facts.append(("the same, as a share of what each names right unprobed", text))
    for name, words in (
        ("interval_over_classes", "95 % bootstrap over runs and classes"),
        ("bootstrap_interval", f"{100 * claim.confidence:.0f} % bootstrap over {claim.counted}"),
    ):
        if ends := _ends(found.get(name, statistics.NOTHING), claim.unit):
            facts.append((words, ends))
    if "effect_by_epoch" in found:
        steps = (
            f"epoch {e}: {effect_text(x, claim.unit)}" for e, x in found["effect_by_epoch"].items()
        )
        facts.append(("effect at each checkpoint", "; ".join(steps)))
    for name, words in (("cohens_d", "Cohen's d, paired"), ("hedges_g", "Hedges' g, paired")):
        if math.isfinite(found[name]):
            facts.append((words, f"{found[name]:+.2f}"))
    if math.isfinite(found["wilcoxon_p"]):
        facts.append(("Wilcoxon's signed ranks, p", p_text(found["wilcoxon_p"])))
    facts.append(("read from", ", ".join(claim.source)))
    return facts


def _values_text(values: Any, unit: str) -> str:
    factor, form, name = UNITS[unit]
    form = form.replace("+", "")
    if not isinstance(values, list):
        return f"{form.format(factor * values)} {name} on average".replace("points", "%")
    shown = " ".join(form.format(factor * x) if math.isfinite(x) else "none" for x in values)
    return f"{shown} {name}, run by run".replace("points", "%")


def _strips(results: ProbeResults) -> list[tuple[str, list[tuple[str, str]], bool, str, str]]:
    """(title, [(caption, picture)], whether captions are systems, marks, windows) of the samples.

    Marks and windows are SVG to lay over the pictures; "" where windows are not known.
    """
    systems = {title(name): name for name in results.systems}
    found = []
    for strip in results.strips:
        probe = PROBES.get(strip.title)
        captions = (systems.get(caption, caption) for caption in strip.captions)
        pictures = list(zip(captions, map(picture_uri, strip.images), strict=True))
        said = probe.title if probe else strip.title.replace("_", " ")
        ours = all(name in results.systems for name, _ in pictures)
        windows = strip.windows or results.windows
        marks = overlay.marks_svg(windows) if windows else ""
        drawn = overlay.windows_svg(windows) if windows else ""
        found.append((said, pictures, ours, marks, drawn))
    return found


def _families(results: ProbeResults, look: Mapping[str, Style]) -> list[tuple]:
    """(name, title, [(title, SVG)]) of every family of probes that was run."""
    names = dict.fromkeys(name.partition("/")[0] for name, p in PROBES.items() if not p.decoys)
    found = []
    for family in names:
        panels = _panels(family, results, look)
        if panels:
            said, _ = FAMILIES.get(family, (family.replace("_", " ").capitalize(), ""))
            found.append((family, said, panels))
    return found


def _panels(family: str, results: ProbeResults, look: Mapping[str, Style]) -> list[tuple[str, str]]:
    """(title, SVG) of every probe of a family that was run."""
    curves = {name: [] for name in PROBES if name.partition("/")[0] == family}
    for curve in results.curves:
        if curve.probe in curves:
            curves[curve.probe].append(curve)
    shown = [curve.accuracy.mean(0).max() for found in curves.values() for curve in found]
    top = float(1.1 * max(*shown, 2 * results.chance)) if shown else 1.0  # one axis for the family
    figures = []
    for name, found in curves.items():
        said = PROBES[name].title
        if found:
            figure = experiment_figures.probe_figure(found, look, results.chance, top, said)
            figures.append((said, figure))
    return figures


def _conflicts(results: ProbeResults, look: Mapping[str, Style]) -> list[dict[str, Any]]:
    """Title, SVG and cross-overs (mean and intervals a system) of each cue-conflict."""
    curves = {(c.probe, c.system): c for c in results.curves}
    found = []
    for probe, asked in PROBES.items():
        if not asked.decoys:
            continue
        pairs = {}
        for name in results.systems:
            centre, periphery = (
                curves.get((f"{probe}/{side}", name)) for side in ("centre", "periphery")
            )
            if centre and periphery:
                pairs[name] = centre, periphery
        rows = []
        for name, (centre, periphery) in pairs.items():
            sides = centre.levels, centre.accuracy, periphery.accuracy
            areas = statistics.crossover(*sides)
            there = areas[np.isfinite(areas)]
            rows.append(
                {
                    "system": name,
                    "crossed": len(there),
                    "runs": len(areas),
                    "mean": float(there.mean()) if len(there) else math.nan,
                    "interval": statistics.mean_interval(there),
                    "bootstrap": statistics.crossover_interval(*sides),
                }
            )
        if pairs:
            figure = experiment_figures.conflict_figure(pairs, look, results.chance, asked.title)
            found.append({"title": asked.title, "figure": figure, "rows": rows})
    return found


def _matrix(results: ProbeResults) -> list[tuple[str, list[tuple[float, float, float] | None]]]:
    """(trained on, [(mean, deviation, heat from 0 to 1) a transform]); None where not tested."""
    curves = {(c.system, c.probe): c.accuracy[:, 0] for c in results.curves if "general" in c.probe}
    top = max((float(a.mean()) for a in curves.values()), default=0)
    if top <= results.chance:
        top = 1.0
    rows = []
    for name in results.systems:
        cells: list[tuple[float, float, float] | None] = []
        for tested in results.systems:
            found = curves.get((name, f"generalization/{tested}"))
            if found is None:
                cells.append(None)
                continue
            heat = max(0.0, (float(found.mean()) - results.chance) / (top - results.chance))
            cells.append((float(found.mean()), float(statistics.deviation(found)), heat))
        rows.append((name, cells))
    return rows if curves else []


def _dynamics(results: ProbeResults, look: Mapping[str, Style]) -> list[tuple[str, str]]:
    """(measure, SVG) of each measure at the checkpoints; those not probed are left out."""
    named = {"accuracy": comparisons.ACCURACY}
    named |= comparisons.HIGH_PASS | comparisons.OCCLUSION | comparisons.CROSSOVER
    panels = []
    for key, measure in named.items():
        values = {}
        untrained = measure.unit == "accuracy"  # before learning, curves cross anywhere
        epochs = [epoch for epoch in sorted(results.dynamics) if epoch or untrained]
        for name in results.systems:
            at = (comparisons.at_epoch(measure, results, name, epoch) for epoch in epochs)
            found = [value for value in at if value is not None]
            if found and len(found) == len(epochs):
                values[name] = np.stack(found, 1)
        if values:
            chance = results.chance if measure.unit == "accuracy" else None
            figure = experiment_figures.dynamics_figure(
                values, epochs, look, key, measure.phrase, chance
            )
            panels.append((measure.phrase, figure))
    return panels


def _filters(results: ProbeResults) -> list[tuple[str, list[tuple[int, str, int, int]]]]:
    """(system, [(epoch, picture, width, height)]) of the first layer of run 0."""
    found = []
    for name in results.systems:
        pictures = []
        for epoch, filters in sorted(results.filters.get(name, {}).items()):
            canvas = experiment_figures.mosaic(np.asarray(filters))
            pictures.append((epoch, picture_uri(canvas), *canvas.shape[1::-1]))
        if pictures:
            found.append((name, pictures))
    return found


def _confusion(results: ProbeResults) -> list[tuple[str, np.ndarray]]:
    """(system, [L, L] share of a class's images named so, over runs), on its own transform."""
    return [
        (c.system, c.counts.sum(0) / np.maximum(c.counts.sum((0, 2)), 1)[:, None])
        for c in results.confusion
        if c.system == c.transform
    ]


def _perceptual(results: ProbeResults) -> tuple[list[str], int, list]:
    """(systems, images, rows of report.metric_table) of the panel against Reference."""
    systems = [n for n in results.systems if n != "reference" and n in results.perceptual]
    rows, names = [], []
    for system in systems:
        panel = results.perceptual[system]
        names += [name for name in panel if name not in names]
        columns = zip(*panel.values(), strict=True)
        rows += [{"system": system} | dict(zip(panel, values, strict=True)) for values in columns]
    count = len(rows) // len(systems) if systems else 0
    return systems, count, metric_table(rows, tuple(systems), tuple(names))


def picture_uri(image: np.ndarray) -> str:
    """An 8-bit picture as a PNG within the page."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
