"""The job "paper_table" on tiny random models of the right number of heads."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import config
from circuits_jax.decoder.decoder import initial_params
from circuits_jax.jobs import paper_table
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny
from tests.circuits.runs.test_damage import made_again
from tests.circuits.tasks.conftest import make_tokenizer

SHAPES = {"tiny-gpt2": (12, 12), "tiny-attn-only": (4, 8)}


def load(name, dtype="float32"):
    """A random model with a tokenizer that knows the words of the tasks."""
    if name not in SHAPES:
        raise InputError(f"The model {name!r} could not be had")
    layers, heads = SHAPES[name]
    tokenizer = make_tokenizer("two_digits")
    settings = dataclasses.replace(
        tiny.CONFIG,
        vocab_size=len(tokenizer),
        n_positions=128,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=heads,
        layer_kinds=(),
        windows=(),
    )
    shapes = jax.eval_shape(lambda key: initial_params(settings, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape, np.float32)), shapes
    )
    return LanguageModel(name, settings, params, tokenizer)


@pytest.fixture(scope="module")
def settings():
    chosen = config.paper_table().unlock()
    chosen.models = {"ioi": "tiny-gpt2", "greater_than": "", "docstring": "tiny-attn-only"}
    chosen.update({"n_trials": 2, "trained": 2, "counted": 4, "methods": ("sae_codes",)})
    chosen.sae_codes.update({"position": "mean", "steps": 5, "n_codes": 4})
    return chosen.lock()


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper") / "workdir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_table, "load_model", load)
        assert paper_table.run(settings, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def rows(finished):
    return json.loads((finished / "paper_table.json").read_text())["rows"]


def test_a_row_for_each_known_circuit(rows):
    assert [(row["task"], row["truth"], row["heads"]) for row in rows] == [
        ("ioi", "wang2022", 26),
        ("docstring", "acdc", 6),
        ("docstring", "oneill2024", 6),
    ]
    for row in rows:
        assert 0 <= row["sae_codes"] <= 1
        assert 0 <= row["sae_codes_spread"] <= 0.5


def test_published_numbers_stand_beside(rows):
    first = rows[0]
    assert (first["paper"], first["paper_spread"]) == (0.868, 0.008)
    rivals = [first[rival] for rival in ("ACDC", "HISP", "subnetwork probing")]
    assert rivals == [0.880, 0.728, 0.842]


def test_both_circuits_of_docstring_are_judged_by_the_same_scores(finished):
    aucs = json.loads((finished / "docstring-sae_codes.json").read_text())
    assert set(aucs) == {"acdc", "oneill2024"}
    assert all(len(trials) == 2 for trials in aucs.values())


def test_files_of_the_table(finished, rows):
    with (finished / "paper_table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    page = (finished / "report.html").read_text()
    assert "0.868 ± 0.008" in page
    record = json.loads((finished / "paper_table.json").read_text())
    assert list(record)[:2] == ["warnings", "performance"]
    assert list(record["performance"]) == ["learn of ioi", "learn of docstring"]
    assert "4 learnt of ioi" in page
    assert "Left out, as config.models names no model: greater_than" in page
    for address in ('src="http', 'href="http', "url(http", "@import", "<script src"):
        assert address not in page


def test_a_stopped_table_goes_on(finished, settings, rows, monkeypatch):
    (finished / "report.html").unlink()
    monkeypatch.setattr(paper_table, "load_model", load)
    monkeypatch.setattr(paper_table, "captured_outputs", lambda *_: pytest.fail("run again"))
    paper_table.run(settings, finished)
    assert json.loads((finished / "paper_table.json").read_text())["rows"] == rows


def test_damaged_files_of_a_table_are_made_again(finished, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(paper_table, "load_model", load)
    made_again(finished, tmp_path / "run", lambda folder: paper_table.run(settings, folder))


def test_a_finished_table_is_printed_again(finished, settings, rows, capsys):
    paper_table.run(settings, finished)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["learnt", "learnt"]
    lines = [line for line in lines if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert lines[2].startswith("| ioi (wang2022) | 26 | 0.868 ± 0.008 |")


def refuse(settings, folder, monkeypatch, message, **fields):
    monkeypatch.setattr(paper_table, "load_model", load)
    wrong = settings.copy_and_resolve_references().unlock()
    wrong.update(fields)
    with pytest.raises(InputError, match=message):
        paper_table.run(wrong, folder / "wrong")


def test_a_model_that_cannot_be_reached(settings, tmp_path, monkeypatch):
    models = {"ioi": "gpt2", "greater_than": "", "docstring": ""}
    refuse(settings, tmp_path, monkeypatch, "'gpt2' could not be had", models=models)
    assert not (tmp_path / "wrong").exists()


def test_a_model_without_the_circuits_heads(settings, tmp_path, monkeypatch):
    models = {"ioi": "tiny-attn-only", "greater_than": "", "docstring": ""}
    message = "config.models.ioi is 'tiny-attn-only', of 4 layers of 8 heads; .* is of gpt2"
    refuse(settings, tmp_path, monkeypatch, message, models=models)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("eap",)}, "config.methods has 'eap'"),
        ({"n_trials": 0}, "config.n_trials is 0"),
        ({"trained": 5}, "config.trained is 5; allowed is 1 to 4"),
        ({"models": {"ioi": "", "greater_than": "", "docstring": ""}}, "config.models is empty"),
    ],
)
def test_bad_configs(settings, tmp_path, monkeypatch, fields, message):
    refuse(settings, tmp_path, monkeypatch, message, **fields)
    assert not (tmp_path / "wrong").exists()
