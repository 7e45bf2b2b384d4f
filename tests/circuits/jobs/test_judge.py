"""Somebody's circuit: read from every form, and judged as our own."""

import base64
import html
import json

import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax import config, pipeline
from circuits_jax.circuits.circuit import Scores
from circuits_jax.circuits.given import read_circuit
from circuits_jax.circuits.graph import graph_of
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny
from tests.circuits.report.test_report import Page

HEADS = ((2, 3), (0, 1), (1, 0))
NAMES = ["a2.h3", "a0.h1", "a1.h0"]
GRAPH = graph_of(tiny.CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    tiny.write_model(folder / "model")
    tiny.write_task(folder / "task.jsonl", tiny.pairs(8))
    return folder


def settings(folder, make, **fields):
    chosen = make("custom").unlock()
    chosen.model, chosen.task.path = str(folder / "model"), str(folder / "task.jsonl")
    chosen.task.n, chosen.task.n_held_out = 3, 4
    chosen.evaluate.update({"ablations": ("mean",), "curve": (0.5,), "n_random": 1})
    chosen.update_from_flattened_dict(fields)
    return chosen.lock()


@pytest.fixture(scope="module")
def found(folder):
    """A run of ours."""
    more = {"method": "mean_difference", "circuit.size": 8}  # with edges among them
    chosen = settings(folder, config.experiment, **more)
    pipeline.run(chosen, folder / "found")
    return folder / "found"


def judged(folder, path, name, **fields):
    chosen = settings(folder, config.judgement, **{"circuit.path": str(path)}, **fields)
    pipeline.run(chosen, folder / name)
    return json.loads((folder / name / "circuit.json").read_text())


def test_the_page_gives_the_circuit_again_as_code_and_as_a_file(found, tmp_path):
    page = Page((found / "report.html").read_text())
    (code,) = (e["text"] for e in page.find(tag="pre") if e["text"].startswith("import circuits"))
    *lines, last = code.splitlines()
    assert last == "print(cj.evaluate(model, task, circuit, 0))"
    scope = {}
    exec("\n".join(lines), scope)
    ours = cj.load_circuit(found / "circuit.json")
    np.testing.assert_array_equal(scope["circuit"].heads, ours.heads)
    np.testing.assert_array_equal(scope["circuit"].edges, ours.edges)
    (link,) = page.find(tag="a", download="circuit.json")
    (tmp_path / "circuit.json").write_bytes(base64.b64decode(link["href"].partition(",")[2]))
    np.testing.assert_array_equal(cj.load_circuit(tmp_path / "circuit.json").heads, ours.heads)


def test_our_own_circuit_is_judged_as_when_it_was_found(folder, found):
    record, ours = judged(folder, found / "circuit.json", "again"), found / "circuit.json"
    ours = json.loads(ours.read_text())
    for name in ("heads", "edges", "performance"):
        assert record[name] == ours[name]
    own = [j for j in ours["evaluation"]["judgements"] if j["size"] == len(ours["heads"])]
    again = [j for j in record["evaluation"]["judgements"] if j["size"] == len(ours["heads"])]
    assert again == own
    assert {j["kept"] for j in own} >= {"circuit", "complement", "random", "edges"}


def test_a_list_has_no_curve_and_its_page_says_whose_it_is(folder):
    path = folder / "theirs.txt"
    path.write_text("2.3, L0H1\na1.h0")
    record = judged(folder, path, "list", method="Wang et al.")
    assert {j["size"] for j in record["evaluation"]["judgements"]} == {3}
    page = (folder / "list" / "report.html").read_text()
    assert "Wang et al." in page
    assert "theirs.txt, judged as it is" in page
    assert f"cj.read_circuit({str(path)!r}, model.config)" in html.unescape(page)
    path.write_text("2.3")
    with pytest.raises(InputError, match="path_sha256"):
        judged(folder, path, "list", method="Wang et al.")


def graph_json(path, nodes=None, edges=None):
    """A graph of random effects in which these nodes and edges are marked."""
    rng = np.random.default_rng(0)
    effects = (rng.standard_normal(GRAPH.is_edge.shape) * GRAPH.is_edge).astype(np.float32)
    heads = effects.sum(axis=1)[GRAPH.head_writers].reshape(3, 4)
    details = {"effects": heads, "graph_effects": effects}
    cj.save_graph_json(Scores(np.abs(heads), np.zeros((12, 12)), details), path, tiny.CONFIG)
    record = json.loads(path.read_text())
    for name, node in record["nodes"].items():
        node["in_graph"] = nodes is None or name in nodes
    for name, edge in record["edges"].items():
        edge["in_graph"] = edges is None or name in edges
    path.write_text(json.dumps(record))


FORMS = {
    "names.json": '["a2.h3", "0.1", "blocks.1.attn.hook_z[0]"]',
    "pairs.json": "[[2, 3], [0, 1], [1, 0]]",
    "objects.json": '{"heads": [{"layer": 2, "head": 3, "score": 3}, {"layer": 0, "head": 1,'
    ' "score": 2}, {"layer": 1, "head": 0, "score": 1}]}',
    "words.txt": "2.3 0.1,\n1.0\n",
    "with_mlps.txt": "2.3 0.1 1.0 m0 input logits",
    "path.txt": "model.layers[2].self_attn.o_proj.input[...,12:16]\n0.1\n1.0",
    "heads.csv": "head,score,rank,in_circuit\n2.3,3,1,True\n0.1,2,2,True\n1.0,1,3,True\n"
    "0.0,9,4,False\n",
    "table.csv": "layer,head\n2,3\n0,1\n1,0\n",
    "marked.json": '[{"layer": 2, "head": 3, "in_circuit": true}, {"name": "0.1"},'
    ' {"layer": 1, "head": 0, "in_graph": 1}, {"layer": 1, "head": 1, "in_graph": false}]',
    "marked.csv": "head,in_graph\n2.3,yes\n0.1,1\n1.0,TRUE\n0.0,no\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_heads_in_every_form(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    circuit = read_circuit(tmp_path / name, tiny.CONFIG)
    assert set(circuit.ranked_heads()) == set(HEADS)
    ranked = name in ("objects.json", "heads.csv")
    scores = [circuit.head_scores[head] for head in HEADS]
    assert scores == ([3, 2, 1] if ranked else [1, 1, 1])
    assert circuit.head_scores.sum() == sum(scores)
    assert not circuit.edges.any()


def test_nodes_that_a_graph_marks(tmp_path):
    edges = ("a0.h1->a1.h0<q>", "a0.h1->m0", "a1.h0->a2.h3<v>", "a1.h0->a2.h3<k>", "a2.h3->logits")
    graph_json(tmp_path / "graph.json", nodes=[*NAMES, "m0", "input", "logits"], edges=edges)
    circuit = read_circuit(tmp_path / "graph.json", tiny.CONFIG)
    assert set(circuit.ranked_heads()) == set(HEADS)
    assert set(circuit.ranked_edges()) == {((0, 1), (1, 0)), ((1, 0), (2, 3))}
    graph_json(tmp_path / "edges.json", edges=edges)
    assert set(read_circuit(tmp_path / "edges.json", tiny.CONFIG).ranked_heads()) == set(HEADS)


def test_a_graph_that_marks_nothing_is_cut_by_its_scores(folder):
    graph_json(folder / "whole.json")
    scores = read_circuit(folder / "whole.json", tiny.CONFIG)
    record = judged(folder, folder / "whole.json", "cut", **{"circuit.size": 2})
    wanted = scores.circuit(size=2).ranked_heads()
    assert [(row["layer"], row["head"]) for row in record["heads"]] == wanted


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("head,in_circuit\n0.1,perhaps", "in_circuit is 'perhaps'; allowed: true, 1, yes, false"),
        ("", "names no head"),
        ("[]", "names no head"),
        ("m0 m1", "names no head"),
        ("3.0", "'3.0' is not in the model, which has 3 layers of 4 heads"),
        ("mover", "'mover' names no node"),
        ("[7]", "7 is no head"),
        ('[{"layer": 1}]', "is no head"),
        ('[{"layer": 1, "head": 1, "score": "high"}]', "could not convert"),
        ('[{"layer": 1, "head": 1, "score": NaN}]', "is nan; a finite number"),
        ('{"circuit": 1}', "is no circuit; allowed are"),
        ("{", "not a readable JSON"),
        ('{"schema": "circuits_jax/circuit", "version": 9}', "of schema and version"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(tmp_path, content, sentence):
    (tmp_path / "file").write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_circuit(tmp_path / "file", tiny.CONFIG)
    assert str(tmp_path / "file") in str(caught.value)


def test_a_circuit_of_another_model_is_refused(tmp_path, found):
    record = json.loads((found / "circuit.json").read_text()) | {"n_layers": 4}
    (tmp_path / "circuit.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="of 4 layers of 4 heads; the model has 3 of 4"):
        read_circuit(tmp_path / "circuit.json", tiny.CONFIG)
    with pytest.raises(InputError, match=r"circuit\.path is '/nope', which is no file"):
        pipeline.check(given("/nope"))


def given(path):
    chosen = config.judgement("ioi")
    chosen.circuit.path = path
    return chosen
