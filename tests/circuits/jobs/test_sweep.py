"""The job "sweep", and draws of many settings from one capture."""

import csv
import dataclasses
import html
import json

import jax
import numpy as np
import pytest

from circuits_jax import config
from circuits_jax.evaluation.captured import captured_outputs
from circuits_jax.jobs import subsampling, sweep
from circuits_jax.methods.sae_codes import PUBLISHED, SaeCodes, sae_codes
from circuits_jax.report import sweep_page
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny
from tests.circuits.runs.test_damage import made_again

L, H, N = 3, 4, 4
OURS = SaeCodes(position="mean", n_codes=6, steps=20)
SHARED = dataclasses.replace(PUBLISHED, n_codes=6, steps=20)


@pytest.mark.parametrize("options", [OURS, SHARED], ids=["ours", "published"])
def test_all_pairs_give_the_scores_of_the_method(options):
    """One cell, one draw, the pairs in their own order: nothing but `sae_codes`."""
    model, task, key = tiny.model(), tiny.task(n=N), jax.random.key(0)
    rows = captured_outputs(model, task.learn, options)
    every = np.arange(N)[None, None]
    found = subsampling.scores(key, rows, options, every, every, [options.l1])
    wanted = sae_codes(model, task, key, options).head_scores
    np.testing.assert_allclose(found[0, 0, 0], wanted, rtol=1e-4, atol=1e-5)


def test_a_set_that_is_repeated_scores_as_the_set():
    """The loss is a mean over rows and evidence a mean over pairs."""
    rows = captured_outputs(tiny.model(), tiny.task(n=N).learn, OURS)
    few = np.array([[[2, 0]]])
    often = np.tile(few, N // 2)
    key = jax.random.key(1)
    once = subsampling.scores(key, rows, OURS, few, few, [0.02])
    again = subsampling.scores(key, rows, OURS, often, often, [0.02])
    np.testing.assert_allclose(again, once, rtol=1e-3, atol=1e-5)


def test_only_pairs_that_are_counted_count():
    rows = captured_outputs(tiny.model(), tiny.task(n=N).learn, OURS)
    trained = np.arange(N)[None, None]
    one, two, both = (
        subsampling.scores(jax.random.key(0), rows, OURS, trained, np.array([[pairs]]), [0.02])
        for pairs in ([0] * N, [1] * N, [0, 1] * (N // 2))
    )
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-6)
    assert np.abs(one - two).max() > 1e-3


def test_penalties_share_a_program_and_differ():
    relu = dataclasses.replace(OURS, activation="relu")
    rows = captured_outputs(tiny.model(), tiny.task(n=N).learn, relu)
    every = np.arange(N)[None, None]
    found = subsampling.scores(jax.random.key(0), rows, relu, every, every, [0.0, 0.5])
    alone = subsampling.scores(jax.random.key(0), rows, relu, every, every, [0.5, 0.5])
    np.testing.assert_allclose(alone, np.stack([found[1], found[1]]), rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_subsets_are_the_first_of_every_order():
    order = subsampling.orders(jax.random.key(0), 6, 3)
    assert np.sort(order).tolist() == [list(range(6))] * 3
    assert len({tuple(row) for row in order}) > 1
    found = subsampling.subsets(order, [2, 3, 6], "n")
    assert found.shape == (3, 3, 6)
    np.testing.assert_array_equal(found[0], np.tile(order[:, :2], 3))
    np.testing.assert_array_equal(found[2], order)


@pytest.mark.parametrize("sizes", [[0, 6], [4, 6], [7]])
def test_sizes_that_cannot_be_drawn(sizes):
    with pytest.raises(InputError, match=r"trained has \d; allowed are 1 to 6 pairs"):
        subsampling.subsets(np.zeros((1, 6), int), sizes, "trained")


def test_aucs():
    truth = np.array([[True, False], [False, True]])
    found = subsampling.aucs(np.stack([truth * 1.0, 1.0 - truth, np.zeros((2, 2))]), truth)
    assert found.tolist() == [1, 0, 0.5]
    assert np.isnan(subsampling.aucs(np.zeros((2, 2, 2)), np.ones((2, 2), bool))).all()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    chosen = config.sweeps("custom").unlock()
    chosen.model = str(tiny.write_model(folder / "model"))
    chosen.task.path = str(tiny.write_task(folder / "task.jsonl", tiny.pairs(8)))
    chosen.task.n = N
    chosen.sae_codes.update({"position": "mean", "steps": 20, "n_codes": 6})
    values = {"trained": (2, 4), "counted": (1, 4), "codes": (6,), "models": (chosen.model,)}
    chosen.sweep.update(values | {"base_trained": 4, "n_draws": 2})
    return chosen.lock()


def reference(folder, model, task):
    """Effects by which every second head matters; in a random model all would."""
    return 1e6 * (np.arange(L * H).reshape(L, H) % 2)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "workdir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "reference", reference)
        assert sweep.run(settings, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def cells(finished):
    return json.loads((finished / "sweep.json").read_text())["cells"]


def test_every_axis_and_value(cells, settings):
    found = [(cell["axis"], cell["value"]) for cell in cells]
    numbers = [("trained", 2), ("trained", 4), ("counted", 1), ("counted", 4), ("codes", 6)]
    assert found == [*numbers, ("models", settings.model)]  # topk codes have no penalty
    for cell in cells:
        assert len(cell["auc"]) == 2
        assert 0 <= cell["mean"] <= 1
        np.testing.assert_allclose(cell["mean"], np.mean(cell["auc"]))


def test_files_of_the_sweep(finished, cells):
    with (finished / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(cells)
    page = (finished / "report.html").read_text()
    for heading in ("pairs that train the autoencoders", "codes of an autoencoder"):
        assert heading in page
    for address in ('src="http', 'href="http', "url(http", "@import", "<script src"):
        assert address not in page


def test_a_stopped_sweep_goes_on(finished, settings, cells, monkeypatch):
    for lost in ("report.html", "codes.json"):
        (finished / lost).unlink()
    monkeypatch.setattr(sweep, "reference", reference)
    run = dict(sweep.AXES)
    monkeypatch.setattr(sweep, "AXES", run | {"trained": lambda *_: pytest.fail("run again")})
    sweep.run(settings, finished)
    assert json.loads((finished / "sweep.json").read_text())["cells"] == cells


def test_damaged_files_of_a_sweep_are_made_again(finished, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "reference", reference)
    made_again(finished, tmp_path / "run", lambda folder: sweep.run(settings, folder))


def test_performance_of_another_model_that_is_damaged_is_measured_again(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep, "reference", reference)
    two = settings.copy_and_resolve_references().unlock()
    other = str(tiny.write_model(tmp_path / "other", seed=1))
    two.sweep.update({"models": (other,), "trained": (), "counted": (), "codes": ()})
    folder = tmp_path / "run"
    sweep.run(two, folder)
    before = (folder / "sweep.json").read_bytes()
    (path,) = (folder / sweep._folder(other, None)).glob(sweep.PERFORMANCE)
    assert len(json.loads(before)["performance"]) == 4
    for content in (b"{", None):
        path.unlink() if content is None else path.write_bytes(content)
        sweep.run(two, folder)
        assert (folder / "sweep.json").read_bytes() == before


def test_a_finished_sweep_prints_its_table_again(finished, settings, cells, capsys):
    sweep.run(settings, finished)
    printed = capsys.readouterr().out.splitlines()
    assert len([line for line in printed if line.startswith("|")]) == 2 + len(cells)
    assert [line.split()[0] for line in printed[1:3]] == ["learnt", "held"]


def test_performance_of_every_model_stands_at_the_head(finished, settings):
    record = json.loads((finished / "sweep.json").read_text())
    assert list(record)[:2] == ["warnings", "performance"]
    pairs = {name: one["pairs"] for name, one in record["performance"].items()}
    assert pairs == {f"learn of {settings.model}": N, f"held_out of {settings.model}": 8 - N}
    page = html.unescape((finished / "report.html").read_text())
    assert "Does the model do the task?" in page
    assert record["warnings"]  # random weights
    for sentence in record["warnings"]:
        assert sentence[1:] in page


def test_a_kind_of_negatives_without_contrast_is_refused(settings, tmp_path):
    wrong = settings.copy_and_resolve_references().unlock()
    rows = [(positive, positive, *rest) for positive, _, *rest in tiny.pairs(8)]
    wrong.task.path = str(tiny.write_task(tmp_path / "same.jsonl", rows))
    with pytest.raises(InputError, match="no contrast"):
        sweep.run(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "eap", "config.method is 'eap'; allowed are sae_codes, sae_codes_published"),
        ("sweep.n_draws", 0, "n_draws is 0"),
        ("sweep.trained", (3, 4), "config.sweep.trained has 3"),
        ("sweep.counted", (8,), "config.sweep.counted has 8"),
        ("sweep.codes", (0,), "n_codes is 0"),
    ],
)
def test_bad_configs(settings, tmp_path, field, value, message):
    wrong = settings.copy_and_resolve_references().unlock()
    wrong.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        sweep.run(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_panels_of_numbers_have_a_line_and_of_names_none():
    numbers = [{"value": v, "mean": 0.8, "spread": 0.1} for v in (1, 10)]
    names = [{"value": v, "mean": 0.8, "spread": 0.1} for v in ("range", "year")]
    line, dots = (
        sweep_page.panel(axis, cells, 0.4)[1]
        for axis, cells in (("codes", numbers), ("negatives", names))
    )
    assert line.count("fill-opacity: 0.16") == 1
    assert "fill-opacity: 0.16" not in dots
    for drawing, texts in ((line, ("1", "10")), (dots, ("range", "year"))):
        assert drawing.count("0.800 ± 0.100</title>") == 2
        for text in texts:
            assert f">{text}</text>" in drawing
