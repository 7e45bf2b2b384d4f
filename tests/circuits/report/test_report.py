import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import circuits_jax as cj
from circuits_jax import config
from circuits_jax.circuits.circuit import Scores
from circuits_jax.evaluation.faithfulness import Evaluation, Judgement, TruthMetrics
from circuits_jax.jobs import common
from circuits_jax.lm.performance import Interval, Performance
from circuits_jax.methods import configured, method_of
from circuits_jax.report import circuit_page
from circuits_jax.runs import keys
from circuits_jax.tasks import GroundTruth, PromptPairs, Task


class Page(html.parser.HTMLParser):
    """Elements with their attributes and own text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.balanced = [], [], True
        self.feed(text)
        self.close()
        self.balanced &= not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})
        if tag not in ("meta", "input", "br"):
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, index in self.open:
            self.elements[index]["text"] += data

    def find(self, **attributes):
        """Elements with these attributes; `kind` is one of the element's classes."""
        kind = attributes.pop("kind", None)
        return [
            element
            for element in self.elements
            if all(element.get(name) == value for name, value in attributes.items())
            and (kind is None or kind in element.get("class", "").split())
        ]

    def records(self):
        return json.loads(self.find(id="records")[0]["text"])

    def text(self):
        return " ".join(self.find(tag="main")[0]["text"].split())


def make_results(
    shape=(2, 4), n=3, size=None, faithfulness=0.75, codes=True, truth=False, edges=()
):
    rng = np.random.default_rng(0)
    layer = np.arange(shape[0] * shape[1]) // shape[1]
    edge_scores = np.where(layer[:, None] < layer[None], rng.random((layer.size,) * 2), 0)
    details = {}
    if codes:
        numbers = rng.integers(0, 200, (2 * n, layer.size))
        details = {"codes": numbers, "strengths": rng.random(numbers.shape) + 0.1}
    scores = Scores(rng.lognormal(size=shape), edge_scores, details)
    circuit = scores.circuit(size=size)
    judgements = [
        Judgement(ablation, kept, heads, 1.5, value, spread)
        for ablation in ("mean", "zero")
        for kept, value, spread in (
            ("circuit", faithfulness, 0.0),
            ("complement", 0.125, 0.0),
            ("random", -0.25, 0.06),
        )
        for heads in sorted({1, circuit.size, layer.size - 1} - {0})
    ]
    judgements += [
        Judgement(ablation, kept, circuit.size, 1.5, share, spread, 0.5, 2.5)
        for ablation in ("mean", "zero")
        for kept, share, spread in edges
    ]
    truths = (GroundTruth("ioi", "m", "someone2020", frozenset({(0, 1), (1, 0)}), "A source"),)
    return circuit_page.Results(
        config={"model": "some/folder/tiny", "method": "sae_codes", "task": {"n": n}},
        environment={"date": "2031-05-06", "seconds": {"fit": 1.5, "evaluate": 2.0}},
        task=Task("ioi", "logit_diff", make_pairs(n, "learn"), make_pairs(2, "held"), truths),
        scores=scores,
        circuit=circuit,
        evaluation=Evaluation(
            4.5,
            -0.5,
            tuple(judgements),
            {"someone2020": TruthMetrics(0.91, 0.82, 0.73, 0.64, 0.55)} if truth else {},
        ),
        token_strings={0: " Mary", 1: " John"},
    )


def make_pairs(n, word):
    return PromptPairs(
        tuple(f"{word} {i}: Mary and John, John gave it to" for i in range(n)),
        tuple(f"{word} {i}: Mary and John, Anna gave it to" for i in range(n)),
        ((0,),) * n,
        ((1,),) * n,
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 4), (12, 12), (48, 25)])
def test_every_head_is_there(shape):
    results = make_results(shape, size=math.ceil(shape[0] * shape[1] / 4))
    page = Page(circuit_page.render(results))
    n = shape[0] * shape[1]
    assert page.balanced
    assert sorted(int(cell["data-g"]) for cell in page.find(kind="cell")) == list(range(n))
    outlined = len(page.find(kind="outline"))
    assert outlined == len(page.find(kind="node")) == results.circuit.size
    records = page.records()
    assert [r["name"] for r in records] == [f"{a}.{b}" for a, b in np.ndindex(*shape)]
    assert [r["inside"] for r in records] == results.circuit.heads.reshape(-1).tolist()


def test_finding_gives_heads_and_numbers():
    results = make_results((12, 12))
    text = Page(circuit_page.render(results)).text()
    assert "Indirect object identification in tiny" in text
    assert "36 of 144 heads reach a faithfulness of 0.75" in text
    assert "Random circuits of that size reach \u22120.25 ± 0.06" in text
    for layer, head in results.circuit.ranked_heads()[:5]:
        assert f"{layer}.{head}" in text
    assert "2031-05-06 3.5 s" in text
    tiles = [tile["text"] for tile in Page(circuit_page.render(results)).find(tag="dd")]
    assert tiles[::2] == ["0.75", "\u22120.25 ± 0.06", "0.12", "4.50"]
    assert tiles[-1] == "logit difference, held-out positives; negatives \u22120.50"


def test_prompts_are_whole_with_what_differs_marked():
    results = make_results()
    page = Page(circuit_page.render(results))
    prompts = [cell["text"] for cell in page.find(tag="td", kind="prompt")]
    pairs = [results.task.learn, results.task.held_out]
    assert prompts == [
        text for p in pairs for pair in zip(p.positives, p.negatives, strict=True) for text in pair
    ]
    assert [mark["text"] for mark in page.find(tag="mark")] == ["John", "Anna"] * 5
    assert [q["text"] for q in page.find(tag="q")] == [" Mary", " John"] * 5


@given(st.text("ab .<\n", max_size=30), st.text("ab .<\n", max_size=30))
def test_differences_keep_both_texts(a, b):
    left, right = circuit_page._differences(a, b)
    assert "".join(text for text, _ in left) == a
    assert "".join(text for text, _ in right) == b
    same = ["".join(text for text, differs in pieces if not differs) for pieces in (left, right)]
    assert same[0] == same[1]
    if a == b:
        assert not any(differs for _, differs in left + right)


def test_text_of_others_is_escaped():
    hostile = "</script><script>alert('x')</script><img src=x onerror=alert(1)> \"&amp;"
    results = make_results()
    pairs = PromptPairs((hostile,) * 3, (hostile + "!",) * 3, ((0,),) * 3, ((1,),) * 3)
    results = dataclasses.replace(
        results,
        config={"model": hostile, "method": hostile},
        environment={"date": hostile},
        task=dataclasses.replace(results.task, name=hostile, learn=pairs),
        token_strings={0: hostile, 1: hostile},
    )
    text = circuit_page.render(results)
    page = Page(text)
    assert page.balanced
    assert len(page.find(tag="script")) == 4
    assert not page.find(tag="img")
    assert page.find(tag="td", kind="prompt")[0]["text"] == hostile
    assert page.find(tag="q")[0]["text"] == hostile


def test_nothing_is_loaded():
    text = circuit_page.render(make_results((12, 12), truth=True))
    for element in Page(text).elements:
        assert element["tag"] not in ("link", "img", "iframe", "object", "embed", "image")
        assert "src" not in element
        assert re.match("#|data:(text/csv|application/json)", element.get("href", "#"))
    text = re.sub(r"http://www\.w3\.org/(2000/svg|1999/xlink)", "", text)  # names, not addresses
    assert not re.search(r"https?:|//\w|@import|url\((?!#)|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text


def test_codes_of_the_best_head_and_of_any_other():
    results = make_results(n=3)
    best = int(np.argmax(results.circuit.head_scores))
    codes, strengths = np.full((6, 8), 5), np.ones((6, 8))
    codes[:, best] = [7, 7, 3, 9, 3, 200]
    strengths[:, best] = [2, 1, 1, 1, 1, 0]
    details = {"codes": codes, "strengths": strengths}
    page = Page(
        circuit_page.render(
            dataclasses.replace(results, scores=results.scores.replace(details=details))
        )
    )
    chips = {int(c["data-i"]): (c["text"], c["class"]) for c in page.find(tag="b") if "data-i" in c}
    assert chips == {
        0: ("7", "hue-1"),
        1: ("7", "hue-1"),
        2: ("3 ±", "hue-2"),
        3: ("9", "hue-0"),
        4: ("3 ±", "hue-2"),
        5: ("\u2013", "hue-0"),
    }
    records = page.records()
    assert records[best]["codes"][0] == ["7", 1, "2", 1.0]
    assert records[best]["codes"][5] == ["\u2013", 0, "0", 0.0]
    other = records[(best + 1) % 8]
    assert other["codes"] == [["5 ±", 1, "1", 1.0]] * 6


def test_edges_of_a_head_are_its_strongest():
    results = make_results((12, 12))
    record = Page(circuit_page.render(results)).records()[60]
    scores = results.scores.edge_scores
    for ends, row in ((record["sources"], scores[:, 60]), (record["targets"], scores[60])):
        assert [g for g, _ in ends] == np.argsort(-row)[:5].tolist()


def test_a_method_without_codes_or_edges():
    results = make_results(codes=False)
    scores = results.scores.replace(edge_scores=np.zeros((8, 8)))
    page = Page(
        circuit_page.render(dataclasses.replace(results, scores=scores, circuit=scores.circuit()))
    )
    assert page.balanced
    assert not page.find(kind="code")
    assert not page.find(kind="edge")
    assert "No edge between these heads scores above 0" in page.text()
    assert "learn 0: Mary and John" in page.text()


def test_undefined_faithfulness_is_said():
    page = Page(circuit_page.render(make_results(faithfulness=math.nan)))
    assert "their faithfulness is undefined" in page.text()
    numeric = ("x", "y", "d", "cx", "cy", "x1", "y1", "width", "height")
    assert not any("nan" in str(e.get(name)) for e in page.elements for name in numeric)


def doubtful(good=False, ranges=True):
    """A task that is done, or not; faithfulness that is a share of something, or of noise."""
    results = make_results()
    sure, unsure = Interval(2.0, 1.0, 3.0), Interval(0.1, -1.0, 1.2)
    one = Performance(3, 0.9 if good else 0.3, 2.0, 0.4, 0.1, sure if good else unsure)
    evaluation = dataclasses.replace(
        results.evaluation,
        performance={"learn": one, "held_out": one},
        ranges={"mean": sure if ranges else unsure, "zero": sure},
    )
    return Page(circuit_page.render(dataclasses.replace(results, evaluation=evaluation)))


def test_a_task_that_is_done_has_its_performance_before_the_finding():
    page = doubtful(good=True)
    text = page.text()
    assert page.balanced
    assert text.index("Does the model do the task?") < text.index("reach a faithfulness of 0.75")
    assert [row["text"].split() for row in page.find(tag="tr")[2:4]] == [
        [*label, "90%", "40%", "2.00", "0.10", "2.00", "1.00", "to", "3.00"]
        for label in (["3", "learnt"], ["3", "held", "out"])
    ]
    assert not page.find(kind="warning")


def test_the_finding_of_no_task_is_qualified():
    """It is not said to reach anything."""
    page = doubtful()
    finding = page.find(tag="section", kind="finding")[0]["text"]
    assert page.balanced
    assert "reach a faithfulness" not in page.text()
    assert "These heads may say nothing about the task" in finding
    assert "no sign that they do the task" in " ".join(finding.split())
    (warning,) = page.find(kind="warning")
    assert "The model does the task no better than chance" in warning["text"]
    assert "is within noise" in warning["text"]


def test_faithfulness_of_noise_is_not_stated():
    page = doubtful(good=True, ranges=False)
    text = page.text()
    assert "reach a faithfulness" not in text
    assert "their faithfulness is undetermined" in text
    tiles = [tile["text"] for tile in page.find(tag="dd")]
    assert tiles[:6:2] == ["\u2013"] * 3
    assert "It has no meaning here" in text
    rows = [row["text"].split() for row in page.find(tag="tr")]
    assert [row[0] for row in rows if "meaning)" in row] == ["mean"]


def test_an_empty_circuit():
    page = Page(circuit_page.render(make_results(size=0)))
    assert page.balanced
    assert "0 of 8 heads were selected" in page.text()
    assert not page.find(kind="node")


def test_no_evaluation():
    results = make_results()
    results = dataclasses.replace(results, evaluation=Evaluation(4.5, -0.5, (), {}))
    assert "their faithfulness was not measured" in Page(circuit_page.render(results)).text()


def test_published_circuit_is_shown_where_the_model_has_one():
    page = Page(circuit_page.render(make_results(truth=True)))
    assert len(page.find(kind="known")) == 2
    plain = [cell["text"] for cell in page.find(tag="td") if "class" not in cell]
    assert plain[-5:] == ["2", "0.82", "0.73", "0.64", "0.55"]
    assert page.find(tag="td", kind="is-circuit")[-1]["text"] == "0.91"
    without = Page(circuit_page.render(make_results()))
    assert not without.find(kind="known")
    assert "someone2020" not in without.text()


EDGES = (("edges", 31.25, 0.0), ("edges_complement", 0.375, 0.0), ("random_edges", -1.5, 0.25))


def test_edges_have_a_table_of_their_own_and_stay_off_the_curve():
    results = make_results((3, 4), size=8, edges=EDGES)
    page = Page(circuit_page.render(results))
    assert page.balanced
    rows = [e["text"].split() for e in page.find(tag="tr") if "31.25" in e["text"]]
    numbers = ["31.25", "0.38", "\u22121.50", "±", "0.25", "0.50", "/", "2.50"]
    assert rows == [[ablation, *numbers] for ablation in ("mean", "zero")]
    layers = np.argwhere(results.circuit.heads)[:, 0]
    among = sum(a < b for a in layers for b in layers)
    assert f"circuit's {results.circuit.edges.sum()} of the {among} edges" in page.text()
    curve, without = (
        Page(text).find(tag="path")
        for text in (circuit_page.render(r) for r in (results, make_results((3, 4), size=8)))
    )
    assert [e.get("d") for e in curve] == [e.get("d") for e in without]


def test_edges_that_were_not_judged_have_no_table():
    assert "edges among its heads" not in Page(circuit_page.render(make_results())).text()
    some = Page(circuit_page.render(make_results(edges=EDGES[:1])))
    assert [e["text"].split()[2:] for e in some.find(tag="tr") if "31.25" in e["text"]] == [
        ["\u2013", "\u2013", "0.50", "/", "2.50"]
    ] * 2


def test_negative_scores_have_a_colour_of_their_own():
    results = make_results()
    scores = results.scores.replace(head_scores=np.linspace(-1, 1, 8).reshape(2, 4))
    page = Page(
        circuit_page.render(dataclasses.replace(results, scores=scores, circuit=scores.circuit()))
    )
    cells = page.find(kind="cell")
    assert ["negative" in cell["class"] for cell in cells] == [True] * 4 + [False] * 4


def test_scores_by_span_of_a_head():
    results = make_results((2, 3))
    by_span = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    spans = {"span_names": np.array(["next", "<last>"]), "span_scores": by_span}
    scores = results.scores.replace(details=results.scores.details | spans)
    page = Page(circuit_page.render(dataclasses.replace(results, scores=scores)))
    assert page.balanced
    record = page.records()[4]
    assert record["spans"] == [["next", "4", 0.4], ["<last>", "10", 1.0]]
    best = np.argmax(results.circuit.head_scores)
    shown = page.find(id="spans")[0]["text"].split()
    assert shown == ["next", str(best), "<last>", str(6 + best)]
    assert page.records()[0]["spans"] == [["<last>", "6", 1.0]]
    assert not Page(circuit_page.render(results)).find(id="spans")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mean_difference", {"circuit.size": 5}),
        ("random+mean_difference", {"circuit.threshold": 0.4, "ensemble.combine": "minimum"}),
        ("sae_codes", {"sae_codes.spans": "changed", "sae_codes.steps": 9, "task.n": 2}),
    ],
)
def test_the_code_on_the_page_gives_the_circuit_again(method, changes, monkeypatch):
    """The snippet is run, as it stands; what it judges is what the command found."""
    given = config.experiment("planted").unlock()
    given.model, given.method = "planted:3x4", method
    given.update_from_flattened_dict(changes)
    model = cj.load_model(given.model)
    task = common.task_of(given, model)
    options, key = configured(method, given), keys.stream(given.seed, "method")
    circuit = common.cut(method_of(method).run(model, task, key, options), given.circuit)
    judged = []
    monkeypatch.setattr(cj, "evaluate", lambda *args: judged.append(args))
    results = dataclasses.replace(
        make_results((3, 4)), config=given.to_dict(), task=task, circuit=circuit
    )
    exec(circuit_page.recipe(results), {})
    ((_, found_task, found, seed),) = judged
    assert found_task.learn == task.learn
    assert seed == given.seed
    np.testing.assert_array_equal(found.heads, circuit.heads)
    np.testing.assert_array_equal(found.edges, circuit.edges)
    np.testing.assert_array_equal(found.head_scores, circuit.head_scores)
