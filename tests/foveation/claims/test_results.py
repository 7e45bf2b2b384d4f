"""results.json is strict, holds everything but pictures, and is read back as it was."""

import csv
import dataclasses
import json
import math
import random

import numpy as np
import pytest

from foveation_jax.claims import results_files, statistics, verdicts
from foveation_jax.claims.results import ProbeResults, title
from foveation_jax.runs.errors import InputError
from tests.foveation.made_up import HIGH_SIGMAS, SYSTEMS, made_up_results


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    skipped = {"train": {"kitchen/7": "cut short"}}
    results = dataclasses.replace(made_up_results(n_runs=2), skipped=skipped)
    table = verdicts.judge(results)
    folder = tmp_path_factory.mktemp("run")
    return results, table, folder, results_files.write_results(results, table, folder)


def _refuse(name):
    raise AssertionError(f"{name} is no JSON")


def _same(a, b):
    """Equal in every field, NaN to NaN, lists to tuples."""
    if dataclasses.is_dataclass(a):
        assert type(a) is type(b)
        for field in dataclasses.fields(a):
            _same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert set(a) == set(b)
        for name in a:
            _same(a[name], b[name])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, float) and math.isnan(a):
        assert b is None or math.isnan(b)
    else:
        assert a == b


def test_json_is_strict_and_has_the_documented_fields(written):
    _, _, folder, paths = written
    assert [path.name for path in paths] == ["results.json", "curves.csv", "claims.csv"]
    document = json.loads(paths[0].read_text(), parse_constant=_refuse)
    fields = (
        "version network systems class_names chance accuracy claims left_out curves crossovers "
        "confusion perceptual matches training skipped experiment crc32"
    )
    assert list(document) == fields.split()
    assert set(document["accuracy"]) == set(SYSTEMS)
    claim = document["claims"][0]
    assert {"name", "verdict", "effect", "interval"} <= set(claim)
    assert len(claim["interval"]) == 2
    assert all(f in results_files.__doc__ for f in document)
    assert not list(folder.glob("*.unfinished"))


def test_results_are_read_back_as_they_were(written):
    results, table, _, paths = written
    read, claims_read = results_files.read_results(paths[0])
    without = dataclasses.replace(results, strips=(), filters={})
    _same(without, read)
    _same(table, claims_read)
    assert results_files.mean_accuracy(read) == results_files.mean_accuracy(results)


def test_a_level_without_end_is_null_and_comes_back(written):
    _, _, _, paths = written
    document = json.loads(paths[0].read_text())
    row = next(r for r in document["curves"] if r["probe"] == "frequency/high_pass_grey")
    assert row["levels"][0] is None
    curves = results_files.read_results(paths[0])[0].curves
    levels = next(c.levels for c in curves if c.probe == "frequency/high_pass_grey")
    np.testing.assert_array_equal(levels, HIGH_SIGMAS)


def test_accuracy_and_crossovers_are_those_of_the_curves(written):
    results, _, _, paths = written
    document = json.loads(paths[0].read_text())
    curves = {(c.probe, c.system): c for c in results.curves}
    for name in SYSTEMS:
        own = curves[f"generalization/{name}", name].accuracy
        assert document["accuracy"][name] == pytest.approx(own.mean())
    rows = [r for r in document["crossovers"] if r["epoch"] is None]
    assert len(rows) == 2 * len(SYSTEMS)
    centre, periphery = (
        curves[f"window_conflict/{s}", "reference"] for s in ("centre", "periphery")
    )
    expected = statistics.crossover(centre.levels, centre.accuracy, periphery.accuracy)
    assert rows[0]["probe"] == "window_conflict"
    np.testing.assert_allclose(rows[0]["area"], expected)


def test_csv_has_a_row_a_number(written):
    results, table, _, paths = written
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert list(rows[0]) == ["probe", "system", "run", "epoch", "level", "accuracy"]
    everything = [*results.curves, *(c for curves in results.dynamics.values() for c in curves)]
    assert len(rows) == sum(curve.accuracy.size for curve in everything)
    found = next(
        r for r in rows
        if r["probe"] == "occlusion/scotoma" and r["run"] == "1" and r["level"] == "0.25"
    )  # fmt: skip
    curve = next(c for c in results.curves if c.probe == "occlusion/scotoma")
    assert (found["system"], found["epoch"]) == (curve.system, "")
    assert float(found["accuracy"]) == curve.accuracy[1, 4]
    claim_rows = list(csv.DictReader(paths[2].read_text().splitlines()))
    assert [r["name"] for r in claim_rows] == [c.name for c in table.claims]
    assert float(claim_rows[0]["low"]) == pytest.approx(table.claims[0].interval[0])


def test_nothing_measured_is_still_a_file(tmp_path):
    empty = ProbeResults(("reference",), ("a", "b"), "alexnet", ())
    table = verdicts.judge(empty)
    path, *_ = results_files.write_results(empty, table, tmp_path)
    assert json.loads(path.read_text())["accuracy"] == {"reference": None}
    _same(empty, results_files.read_results(path)[0])


@pytest.mark.parametrize("seed", range(5))
def test_any_number_that_was_altered_is_noticed(written, tmp_path, seed):
    path, text = tmp_path / "results.json", written[3][0].read_text()
    digits = [i for i, c in enumerate(text[1:], 1) if c.isdigit() and text[i - 1].isdigit()]
    at = random.Random(seed).choice(digits)
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    with pytest.raises(InputError, match=r"results\.json: the file was damaged or altered"):
        results_files.read_results(path)
    path.write_text(text[:at])
    with pytest.raises(InputError, match=r"results\.json: this file is not a results\.json"):
        results_files.read_results(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{", '{"version": 99}'])
def test_other_files_are_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"results\.json: (this file is not|version is 99, it must)"
    ):
        results_files.read_results(path)


def test_titles():
    assert [title(n) for n in SYSTEMS] == [
        "Reference", "Foveation-Texture", "Uniform-Blur", "Foveation-Blur",
    ]  # fmt: skip
