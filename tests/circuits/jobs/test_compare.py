"""The job "compare" on a tiny model, and what its numbers are."""

import contextlib
import csv
import html
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import config
from circuits_jax.circuits.circuit import Scores
from circuits_jax.decoder.decoder import Decoder
from circuits_jax.evaluation import cost
from circuits_jax.evaluation.agreement import against_exact
from circuits_jax.jobs import compare
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods import METHODS, method_options
from circuits_jax.report import compare_page
from circuits_jax.runs import files, mesh
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

L, H = 3, 4
CHOSEN = ("exact_patching", "attribution", "mean_difference", "random", "attribution+random")
SIGNED = ("exact_patching", "attribution", "attribution+random")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    chosen = config.comparison("custom").unlock()
    chosen.model = str(tiny.write_model(folder / "model"))
    chosen.task.path = str(tiny.write_task(folder / "task.jsonl", tiny.pairs(8)))
    chosen.task.n, chosen.methods = 4, CHOSEN
    return chosen.lock()


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The folder of a finished run; what other tests have compiled is not forgotten here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "_uncompiled", contextlib.nullcontext)
        folder = tmp_path_factory.mktemp("run") / "workdir"
        assert compare.run(settings, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def rows(finished):
    record = json.loads((finished / "compare.json").read_text())
    return {row["method"]: row for row in record["rows"]}


def test_a_row_for_each_method(rows):
    assert tuple(rows) == CHOSEN


def test_agreement_is_with_exact_patching_of_the_held_out_pairs(finished, rows):
    """Recomputed from the files of the run."""
    with np.load(finished / "reference" / "scores.npz") as arrays:
        exact = arrays["effects"]
    gap = json.loads((finished / "compare.json").read_text())["gap"]
    for method in CHOSEN:
        with np.load(finished / method / "scores.npz") as arrays:
            details = {"effects": arrays["effects"]} if "effects" in arrays.files else {}
            scores = Scores(arrays["head_scores"], arrays["edge_scores"], details)
        found = against_exact(scores, exact, gap)
        assert rows[method]["pearson_exact"] == pytest.approx(found.pearson)
        assert rows[method]["spearman_exact"] == pytest.approx(found.spearman)
        assert bool(details) == (method in SIGNED)


def test_costs(rows):
    passes = {method: (row["forward"], row["backward"]) for method, row in rows.items()}
    assert passes == {
        "exact_patching": (pytest.approx(2 + 12 * 4 / 6), 0),
        "attribution": (2, 1),
        "mean_difference": (2, 0),
        "random": (0, 0),
        "attribution+random": (2, 1),
    }
    for row in rows.values():
        assert row["seconds_warm"] > 0
        assert row["seconds_cold"] > 0


def test_the_table_is_also_a_csv_file(finished, rows):
    with (finished / "compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == list(CHOSEN)
    assert float(lines[1]["cmd"]) == pytest.approx(rows["attribution"]["cmd"])


def test_the_page_stands_alone_and_names_every_method(finished):
    page = (finished / "report.html").read_text()
    for method in CHOSEN:
        assert f"<th>{method}</th>" in page
    for address in ('src="http', 'href="http', "url(http", "@import", "<script src"):
        assert address not in page


def test_a_finished_comparison_prints_its_table_again(finished, settings, rows, capsys):
    compare.run(settings, finished)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:3]] == ["learnt", "held"]
    table = [line for line in printed if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table] == ["method", "---", *CHOSEN]


def test_performance_and_warnings_stand_at_the_head(finished, rows):
    record = json.loads((finished / "compare.json").read_text())
    assert list(record)[:2] == ["warnings", "performance"]
    held_out = record["performance"]["held_out"]
    assert held_out["pairs"] == 4
    assert held_out["gap"]["mean"] == pytest.approx(record["gap"], rel=1e-4)
    page = html.unescape((finished / "report.html").read_text())
    assert "Does the model do the task?" in page
    assert any("faithfulness means nothing" in sentence for sentence in record["warnings"])
    for sentence in record["warnings"]:
        assert sentence[1:] in page
    assert all(row["heads"] == 3 for row in rows.values())  # a quarter


def test_no_contrast_is_refused(settings, tmp_path):
    wrong = settings.copy_and_resolve_references().unlock()
    same = [(positive, positive, *rest) for positive, _, *rest in tiny.pairs(8)]
    wrong.task.path = str(tiny.write_task(tmp_path / "same.jsonl", same))
    with pytest.raises(InputError, match="no contrast"):
        compare.run(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_stopped_comparison_goes_on(finished, settings, rows, monkeypatch):
    """Scores that are there are not made again; rows that are lost come out the same."""
    for lost in ("report.html", "random/row.json"):
        (finished / lost).unlink()
    monkeypatch.setattr(compare, "measured", lambda *_: pytest.fail("scored again"))
    compare.run(settings, finished)
    again = json.loads((finished / "compare.json").read_text())["rows"]
    assert {row["method"]: row for row in again} == rows


def test_damaged_files_of_a_comparison_are_made_again(finished, settings, rows, monkeypatch):
    monkeypatch.setattr(cost, "_uncompiled", contextlib.nullcontext)
    lost = ("attribution/row.json", "random/scores.npz", "reference/scores.npz", "compare.json")
    before = {name: (finished / name).read_bytes() for name in lost}
    for name in lost:
        (finished / name).write_bytes(before[name][:-30])
    compare.run(settings, finished)
    assert {name: (finished / name).read_bytes() for name in lost} == before
    assert (finished / "report.html").read_text().rstrip().endswith("</html>")


def test_areas_are_of_faithfulness_by_definition(settings, rows):
    """CMD of any scores is at most that of no faithfulness at the nine sizes below all heads."""
    for row in rows.values():
        assert row["cmd"] >= 0
        assert np.isfinite(row["cpr"])
    assert rows["exact_patching"]["cmd"] < rows["random"]["cmd"]


def test_known_circuits():
    """Heads by all heads; edges among pairs of an earlier and a later head."""
    truth = tiny.truth({(0, 1), (2, 0)})
    truth = type(truth)(**vars(truth) | {"edges": frozenset({((0, 1), (2, 0))})})
    heads, edges = np.zeros((L, H), np.float32), np.zeros((L * H, L * H), np.float32)
    heads[0, 1] = heads[2, 0] = 1
    edges[1, 8] = 1
    found = compare.against_known(Scores(heads, edges), [truth])
    assert found == {"truths": {"by hand": 1.0}, "edge_truths": {"by hand": 1.0}}
    backwards = compare.against_known(Scores(1 - heads, edges.T), [truth])
    assert backwards == {"truths": {"by hand": 0.0}, "edge_truths": {"by hand": 0.5}}
    assert compare.against_known(Scores(heads, edges), [tiny.truth({(0, 1)})])["edge_truths"] == {}


def test_truths_of_this_model_only():
    task = tiny.task(truths=(tiny.truth({(0, 0)}), tiny.truth({(0, 0)}, model="gpt2")))
    model = tiny.model()
    assert [truth.model for truth in compare.known(model, task)] == ["tiny"]
    other = LanguageModel("some/gpt2", model.config, model.params, model.tokenizer)
    assert [truth.model for truth in compare.known(other, task)] == ["gpt2"]


def test_cold_calls_know_nothing_that_was_compiled(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    before = jax.config.jax_enable_compilation_cache
    with cost._uncompiled():
        assert not jax.config.jax_enable_compilation_cache
    assert cleared == [True]
    assert jax.config.jax_enable_compilation_cache == before


def test_slow_methods_are_called_once(monkeypatch):
    monkeypatch.setattr(cost, "_uncompiled", contextlib.nullcontext)
    calls = []

    def call():
        calls.append(True)
        return Scores(np.zeros((L, H)), np.zeros((L * H, L * H)))

    _, found = cost.measured(call, (2, 1), warm_limit=0.0)
    assert (len(calls), np.isnan(found.seconds_warm)) == (1, True)
    _, found = cost.measured(call, (2, 1), warm_limit=60.0)
    assert (len(calls), found.forward, found.backward) == (3, 2, 1)
    assert found.seconds_warm >= 0


LAYER_BY_LAYER = H * (L + 1) / 2  # passes for all heads, each from its own layer up
PASSES = {  # by each method's definition, over B prompts
    "sae_codes": ({}, (12 + 4 + 4 + 4) / 12, 0),  # 12 tokens, the negative's last 4, 4 read twice
    "sae_codes_published": ({"steps": 2}, 2, 0),
    "mean_difference": ({}, 2, 0),
    "random": ({}, 0, 0),
    "exact_patching": ({}, 2 + LAYER_BY_LAYER, 0),
    "attribution": ({}, 2, 1),
    "attribution_ig": ({"steps": 3}, 1 + 3, 3),
    "eap": ({}, 2 + 2, 1),  # on the way back every layer is run once more
    "relp": ({}, 2 + 2, 1),
    "eap_ig": ({"steps": 2}, 2 + 2 * 2, 2),
    "acdc": ({"thresholds": (0.01, 0.1, 1.0)}, 2 + 3 * LAYER_BY_LAYER, 0),
    "cdt": ({}, 2 + 2 * LAYER_BY_LAYER, 0),  # in two parts
    "hisp": ({}, 1, 1),
    "subnetwork_probing": ({"steps": 3}, 2 + 3, 3),
}


@pytest.mark.parametrize("method", METHODS)  # a new one has a row
def test_passes_are_counted_as_they_are_run(method):
    options, forward, backward = PASSES[method]
    found = cost.passes(method, method_options(method, **options), tiny.model(), tiny.task(n=3))
    assert found == pytest.approx((forward, backward))


def test_a_pass_more_is_noticed(monkeypatch):
    """Wherever it is: under `vmap`, in a loop, and on devices that items do not fill."""
    model, task = tiny.model(), tiny.task(n=1)
    batch = model.tokenize(task.learn.positives)

    def run(model, task, key, options):
        def twice(item, constants):
            params, batch = constants

            def once(_, x):
                nothing = 0 * jax.lax.stop_gradient(x)  # no pass can leave the loop
                moved = jax.tree.map(lambda p: p + nothing, params)
                logits = Decoder(model.config).apply({"params": moved}, batch)
                return x + jnp.sum(logits) * item

            return jax.lax.fori_loop(0, 2, once, 0.0)

        def spread(items):
            return mesh.spread(jax.grad(twice), items, (model.params, batch), 2).sum()

        return jax.jit(spread)(jnp.ones(options))

    for n in (1, 3):
        monkeypatch.setattr(cost, "method_of", lambda _: SimpleNamespace(run=run))
        assert cost.passes("more", n, model, task) == pytest.approx((2 * n, 0))


@pytest.mark.parametrize(
    ("before", "after", "bytes_"),
    [
        ((50.0, 100.0), (60.0, 130.0), 80.0),  # a new peak, above what was in use before
        ((50.0, 100.0), (60.0, 100.0), np.nan),  # hidden under the old one
        ((50.0, 50.0), (50.0, 50.0), 0.0),  # nothing was taken, and nothing is hidden
        ((np.nan, np.nan), (np.nan, np.nan), np.nan),
    ],
)
def test_memory_that_an_earlier_peak_hides_is_not_known(before, after, bytes_):
    np.testing.assert_equal(cost.risen(before, after), bytes_)


def test_memory_of_devices_that_keep_a_lifetime_peak(monkeypatch):
    """As a GPU's allocator counts: a large call, then a small one, then a larger one."""
    in_use, peaks = 100, iter([100, 1100, 1100, 1100, 1100, 2100])

    class Device:
        def memory_stats(self):
            return {"bytes_in_use": in_use, "peak_bytes_in_use": next(peaks)}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    found = [
        cost._timed(lambda: Scores(np.zeros((L, H)), np.zeros((L * H, L * H))))[2] for _ in "123"
    ]
    np.testing.assert_allclose(found, [0.001, np.nan, 0.002])  # megabytes


def test_bad_configs(settings, tmp_path):
    for field, value, message in (
        ("methods", ("acd",), "unknown method 'acd'"),
        ("seed", -1, "config.seed is -1"),
        ("masks_at_once", 0, "config.masks_at_once is 0"),
        ("model", "nowhere", "nowhere"),
    ):
        wrong = settings.copy_and_resolve_references().unlock()
        wrong[field] = value
        with pytest.raises(InputError, match=message):
            compare.run(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_method_of_unknown_quality_is_left_out_of_the_figure(rows):
    cells = [dict(row) for row in rows.values()]
    cells[0]["auc_exact"] = None
    for cell, auc in zip(cells, (None, float("nan"), 0.9, 0.5, 0.7), strict=True):
        cell["auc_exact"] = auc
    drawing = compare_page.quality_against_cost(cells, "auc_exact")
    for method in CHOSEN:
        assert (f">{method}</text>" in drawing) == (method in CHOSEN[2:])
    assert drawing.count("<title>") == 3


def test_json_is_whole(finished):
    assert files.read_json(finished / "attribution" / "row.json")["method"] == "attribution"
