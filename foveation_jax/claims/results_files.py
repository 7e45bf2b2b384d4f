"""Everything that a run of stage 2 has measured, as files: `results.json`.

`results.json` is strict JSON (no NaN, no Infinity). Version 1 holds

    version      1
    network      name of the CNN
    class_names  [L]
    chance       1 / L
    accuracy     system -> mean test accuracy on its own transform, null where not measured
    claims       list of the fields of `results.Claim`: name, number, statement, verdict ("holds",
                 "fails", "undecided"), effect, unit, interval [low, high], confidence, p, p_holm,
                 n, counted ("runs", "images"), margin, reason, source, evidence
    left_out     list of {name, reason}: claims that these systems and probes cannot speak to
    curves       list of {probe, system, epoch, levels [P], accuracy [V][P]}; epoch is null for the
                 finished networks; a null level is the infinite sigma of high-pass "none"
    crossovers   list of {probe, system, epoch, area [V]}: where centre overtakes periphery, as
                 fraction of the image's area, null where it never does
    confusion    list of {system, transform, counts [V][L][L]}: class, then answer
    perceptual   system -> metric -> [N], against Reference, image by image
    matches      blur -> "train" or "test" -> fields of `transforms.matched.Match`: its sigmas, what
                 they achieve on images of that split and the 95 % intervals of the gaps
    training     list of {system, epochs [P], learning_rate [P], train_loss, train_accuracy,
                 test_loss, test_accuracy, each [V][P]}
    skipped      split -> image -> why: images that were left out as they could not be read
    experiment   the resolved config, versions, devices, revision
    crc32        of all bytes before this field, in hexadecimal; `read_results` verifies it

Every other null is a number that is undefined. `curves.csv` (a row a number) and `claims.csv` stand
beside it. Pictures and filters are on the page only.
"""

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from foveation_jax.claims import statistics
from foveation_jax.claims.results import Claim, ClaimTable, History, LeftOut, ProbeResults
from foveation_jax.probes.curves import Confusion, Curve
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import plain, sealed, unseal, write
from foveation_jax.transforms.matched import from_fields

VERSION = 1


def write_results(
    results: ProbeResults, table: ClaimTable, workdir: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Writes results.json, curves.csv and claims.csv into a folder; returns their paths."""
    document, curves, claims = (
        workdir / name for name in ("results.json", "curves.csv", "claims.csv")
    )
    write(document, sealed(_dumps(as_document(results, table))))
    write(curves, curves_csv(results))
    write(claims, claims_csv(table))
    return document, curves, claims


def _dumps(document: Mapping[str, Any]) -> str:
    """Strict JSON with a line for each item of the lists at its top."""

    def value(item):
        if isinstance(item, list):
            return "[" + ",".join("\n  " + json.dumps(x, allow_nan=False) for x in item) + "]"
        return json.dumps(item, allow_nan=False)

    fields = (f"{json.dumps(name)}: {value(item)}" for name, item in plain(document).items())
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def as_document(results: ProbeResults, table: ClaimTable) -> dict[str, Any]:
    """What results.json holds, before undefined numbers become null."""
    return {
        "version": VERSION,
        "network": results.network,
        "systems": list(results.systems),
        "class_names": list(results.class_names),
        "chance": results.chance,
        "accuracy": mean_accuracy(results),
        "claims": [dataclasses.asdict(claim) for claim in table.claims],
        "left_out": [dataclasses.asdict(claim) for claim in table.left_out],
        "curves": [
            {"probe": curve.probe, "system": curve.system, "epoch": epoch}
            | {"levels": curve.levels, "accuracy": curve.accuracy}
            for epoch, curve in _all_curves(results)
        ],
        "crossovers": [
            {"probe": probe, "system": system, "epoch": epoch, "area": area}
            for epoch, probe, system, area in _crossovers(results)
        ],
        "confusion": [dataclasses.asdict(matrix) for matrix in results.confusion],
        "perceptual": results.perceptual,
        "matches": {
            blur: {split: dataclasses.asdict(match) for split, match in splits.items()}
            for blur, splits in results.matches.items()
        },
        "training": [dataclasses.asdict(history) for history in results.training],
        "skipped": results.skipped,
        "experiment": results.experiment,
    }


def mean_accuracy(results: ProbeResults) -> dict[str, float]:
    """System -> mean test accuracy of its runs on its own transform, NaN where not measured."""
    own = {
        curve.system: float(curve.accuracy.mean())
        for curve in results.curves
        if curve.probe == f"generalization/{curve.system}"
    }
    return {system: own.get(system, math.nan) for system in results.systems}


def read_results(path: pathlib.Path) -> tuple[ProbeResults, ClaimTable]:
    """What `write_results` has written, without pictures and filters, which it doesn't hold.

    Raises:
        InputError: the file is not results of this version, or not as it was written.
    """
    try:
        text = path.read_bytes().decode()
        document = json.loads(text)
        version = document["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: this file is not a results.json of foveation_jax.") from None
    if version != VERSION:
        raise InputError(f"{path}: version is {version}, it must be {VERSION}.")
    try:
        unseal(text)
    except ValueError:
        raise InputError(f"{path}: the file was damaged or altered after it was written.") from None
    curves = {}
    for row in document["curves"]:
        levels = np.array([math.inf if x is None else x for x in row["levels"]], np.float64)
        curve = Curve(row["probe"], row["system"], levels, _floats(row["accuracy"]))
        curves.setdefault(row["epoch"], []).append(curve)
    results = ProbeResults(
        systems=tuple(document["systems"]),
        class_names=tuple(document["class_names"]),
        network=document["network"],
        curves=tuple(curves.pop(None, ())),
        dynamics={epoch: tuple(found) for epoch, found in curves.items()},
        confusion=tuple(
            Confusion(row["system"], row["transform"], np.array(row["counts"], np.int64))
            for row in document["confusion"]
        ),
        perceptual={
            system: {name: _floats(values) for name, values in panel.items()}
            for system, panel in document["perceptual"].items()
        },
        matches={
            blur: {split: from_fields(fields) for split, fields in splits.items()}
            for blur, splits in document.get("matches", {}).items()
        },
        training=tuple(_history(row) for row in document["training"]),
        skipped=document.get("skipped", {}),
        experiment=document["experiment"],
    )
    return results, ClaimTable(
        tuple(_claim(row) for row in document["claims"]),
        tuple(LeftOut(**row) for row in document["left_out"]),
    )


def curves_csv(results: ProbeResults) -> str:
    """A row a number: probe, system, run, epoch (empty when finished), level, accuracy."""
    rows = (
        (curve.probe, curve.system, run, "" if epoch is None else epoch, level, accuracy)
        for epoch, curve in _all_curves(results)
        for run, accuracies in enumerate(curve.accuracy.tolist())
        for level, accuracy in zip(curve.levels.tolist(), accuracies, strict=True)
    )
    return _csv(("probe", "system", "run", "epoch", "level", "accuracy"), rows)


def claims_csv(table: ClaimTable) -> str:
    """A row a claim, without the evidence."""
    names = [f.name for f in dataclasses.fields(Claim) if f.name not in ("interval", "evidence")]
    rows = (
        (*(getattr(claim, name) for name in names if name != "source"), *claim.interval,
         " ".join(claim.source))
        for claim in table.claims
    )  # fmt: skip
    return _csv((*(name for name in names if name != "source"), "low", "high", "source"), rows)


def _csv(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()


def _all_curves(results: ProbeResults) -> Iterable[tuple[int | None, Curve]]:
    """(epoch, curve), of finished networks (epoch None) and along learning."""
    for curve in results.curves:
        yield None, curve
    for epoch, curves in sorted(results.dynamics.items()):
        for curve in curves:
            yield epoch, curve


def _crossovers(results: ProbeResults) -> Iterable[tuple[int | None, str, str, np.ndarray]]:
    curves = {(epoch, c.probe, c.system): c for epoch, c in _all_curves(results)}
    for (epoch, probe, system), centre in curves.items():
        kind, _, side = probe.partition("/")
        periphery = curves.get((epoch, f"{kind}/periphery", system))
        if side == "centre" and periphery is not None:
            area = statistics.crossover(centre.levels, centre.accuracy, periphery.accuracy)
            yield epoch, kind, system, area


def _floats(values: list) -> np.ndarray:
    return np.array(values, np.float64)  # None becomes NaN


def _history(row: dict) -> History:
    epochs = np.array(row.pop("epochs"), np.int64)
    system = row.pop("system")
    return History(system, epochs, **{name: _floats(values) for name, values in row.items()})


def _claim(row: dict) -> Claim:
    numbers = {
        name: math.nan if row[name] is None else row[name] for name in ("effect", "p", "p_holm")
    }
    interval = tuple(math.nan if end is None else end for end in row["interval"])
    return Claim(**row | numbers | {"interval": interval, "source": tuple(row["source"])})
