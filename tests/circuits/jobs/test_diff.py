"""Runs side by side: shared heads, the Jaccard index with its range, and the page."""

import json

import numpy as np
import pytest

from circuits_jax.circuits.circuit import Circuit, Scores
from circuits_jax.evaluation import stability
from circuits_jax.jobs import diff
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.lock import locked
from tests.circuits.report.test_report import Page

L, H = 3, 4


def write_run(folder, heads, shape=(L, H), scores=None, bootstraps=None, faithful=0.5, **about):
    """The files of a run that are read."""
    folder.mkdir(parents=True)
    mask = np.zeros(shape, bool)
    for head in heads:
        mask[head] = True
    ranks = np.zeros(shape, np.float32)
    for rank, head in enumerate(heads):
        ranks[head] = len(heads) - rank
    edges = np.zeros((mask.size, mask.size), bool)
    numbers = sorted(layer * shape[1] + head for layer, head in heads)
    if numbers:
        edges[numbers[0], numbers[-1]] = numbers[0] // shape[1] < numbers[-1] // shape[1]
    circuit = Circuit(mask, edges, ranks, edges.astype(np.float32), {"size": len(heads)})
    judged = {"ablation": "mean", "kept": "circuit", "size": len(heads), "metric": 1.0}
    evaluation = {
        "positive_metric": 1.0,
        "negative_metric": 0.0,
        "judgements": [judged | {"faithfulness": faithful}],
        "truths": {},
        "size": len(heads),
    }
    given = {"model": "tiny", "task": "ioi", "method": "own", "seed": 0} | about
    circuit.save(folder / "circuit.json", **given, evaluation=evaluation)
    if scores is not None:
        Scores(scores, np.zeros((mask.size, mask.size))).save(folder / "scores.npz")
    if bootstraps is not None:
        n = len(bootstraps)
        zeros = np.zeros((n, *shape))
        fields = (zeros, np.zeros(n, int), np.zeros((n, 1), int), bootstraps, zeros[0], zeros[:2])
        stability.save(folder / "stability.npz", stability.Stability(*fields, 1.0))
    return folder


ONE, OTHER = [(2, 3), (0, 1), (1, 0)], [(0, 1), (2, 3), (2, 0), (1, 1)]


def drawn(seed, n=30):
    return np.random.default_rng(seed).random((n, L, H)) < 0.4


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.permutation(12).reshape(3, 4).astype(float), rng.random((3, 4))
    return [
        write_run(tmp_path / "runs" / "one", ONE, scores=scores[0], bootstraps=drawn(1)),
        write_run(
            tmp_path / "runs" / "other", OTHER, scores=scores[1], method="eap", faithful=None
        ),
    ], scores


def test_a_pair_by_a_plain_loop(runs, tmp_path, capsys):
    (folders, scores), out = runs, tmp_path / "runs" / "diff"
    path = diff.run(folders, out)
    record = json.loads((out / "diff.json").read_text())
    (pair,) = record["pairs"]
    assert (pair["shared"], pair["only_a"], pair["only_b"]) == (2, 1, 2)
    assert pair["jaccard"] == pytest.approx(2 / 5)
    assert pair["chance"] == pytest.approx(1 / (3 + 4 - 1))  # 3 x 4 / 12 in common
    assert (pair["shared_edges"], pair["edges"]) == (1, 1)
    indices = []
    for circuit in drawn(1):
        heads = {(int(a), int(b)) for a, b in np.argwhere(circuit)}
        indices.append(len(heads & {*OTHER}) / len(heads | {*OTHER}))
    assert [pair["low"], pair["high"]] == pytest.approx(np.percentile(indices, [2.5, 97.5]))
    ranks = [x.ravel().argsort().argsort() for x in scores]
    assert pair["ranks"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert [(h["layer"], h["head"]) for h in record["heads"][:2]] == [(0, 1), (2, 3)]
    assert record["heads"][0]["ranks"] == {"one": 2, "other": 1}
    assert record["runs"][1]["faithfulness"] == {"mean": None}
    printed = capsys.readouterr().out
    assert "in all 2 circuits: 0.1 2.3\n" in printed
    assert "one, other" in printed
    page = Page(path.read_text())
    assert page.balanced
    assert [a["href"] for a in page.find(tag="a") if "report" in a.get("href", "")] == [
        "../one/report.html",
        "../other/report.html",
    ]
    kinds = {kind: len(page.find(tag="rect", kind=kind)) for kind in ("both", "first", "second")}
    assert kinds == {"both": 2, "first": 1, "second": 2}
    assert len(page.find(tag="rect")) == 12


def test_the_range_is_of_the_bootstraps_of_both(tmp_path):
    folders = [
        write_run(tmp_path / name, heads, bootstraps=drawn(seed, n))
        for name, heads, seed, n in (("a", ONE, 1, 7), ("b", OTHER, 2, 9))
    ]
    pair = diff.compare(*(diff.read_run(folder, folder.name) for folder in folders))
    indices = [(x & y).sum() / (x | y).sum() for x in drawn(1, 7) for y in drawn(2, 9)]
    assert [pair.low, pair.high] == pytest.approx(np.percentile(indices, [2.5, 97.5]))
    assert pair.ranks is None


def test_models_of_other_shapes_stand_beside_each_other(tmp_path, capsys):
    folders = [
        write_run(tmp_path / "a", ONE),
        write_run(tmp_path / "b", [(0, 0)], shape=(2, 2), model="other"),
        write_run(tmp_path / "c", []),
    ]
    path = diff.run(folders, tmp_path / "diff")
    pairs = json.loads((tmp_path / "diff" / "diff.json").read_text())["pairs"]
    assert [pair["shared"] for pair in pairs] == [None, 0, None]
    assert pairs[1]["jaccard"] == 0
    assert pairs[1]["low"] is None
    page = Page(path.read_text())
    assert page.balanced
    assert not page.find(tag="svg")
    assert "in all 3 circuits: no head" in capsys.readouterr().out


def test_folders_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / side / "run", ONE) for side in "ab"]
    diff.run(folders, tmp_path / "diff")
    record = json.loads((tmp_path / "diff" / "diff.json").read_text())
    assert [one["name"] for one in record["runs"]] == [str(folder) for folder in folders]


def test_what_is_no_run_is_refused(tmp_path, runs):
    folders, _ = runs
    (tmp_path / "empty").mkdir()
    for given, sentence in (
        ([], "diff is of no run"),
        (folders[:1], "two runs or more"),
        ([folders[0]] * 2, "each once"),
        ([folders[0], tmp_path / "empty"], "empty is no finished run"),
        ([folders[0], tmp_path / "nowhere"], "nowhere is no finished run"),
    ):
        with pytest.raises(InputError, match=sentence):
            diff.run(given, tmp_path / "diff")
    (folders[1] / "circuit.json").write_text("{")
    with pytest.raises(InputError, match="not a readable JSON"):
        diff.run(folders, tmp_path / "diff")
    (folders[0] / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run"):
        diff.run([*folders[:1], write_run(tmp_path / "third", ONE)], folders[0])
    assert not (tmp_path / "diff").exists()


def test_one_at_a_time_writes_a_page(runs, tmp_path):
    folders, _ = runs
    with locked(tmp_path / "page"), pytest.raises(InputError, match="is in use by another run"):
        diff.run(folders, tmp_path / "page")
