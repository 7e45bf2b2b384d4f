"""What the page's script draws: packed whole, small, and drawn where a browser is at hand."""

import dataclasses
import html
import re
import shutil
import subprocess

import numpy as np
import pytest

from circuits_jax.circuits.graph import Graph
from circuits_jax.circuits.graph_circuit import graph_circuit
from circuits_jax.evaluation.node_views import NodeViews, named
from circuits_jax.report import circuit_page, node_panel
from tests.circuits.report.test_report import Page, make_results

TEXTS = dict(enumerate((" a", "\n", "é", '"</script>', " Mary", " e")))


def make_views(nodes, shape, n_pairs=3, n_tokens=5, seed=0):
    """Random views; the first prompt is a token shorter."""
    rng = np.random.default_rng(seed)
    writers = np.array([*Graph(*shape).writers, "bias"])
    n, both = len(nodes), 2 * n_pairs
    ids = rng.integers(0, len(TEXTS), (both, n_tokens))
    ids[0, -1] = -1
    pattern = np.tril(rng.dirichlet(np.ones(n_tokens), (n, both, n_tokens)))
    pattern[:, 0, -1] = pattern[:, 0, :, -1] = 0
    pattern[[".h" not in name for name in nodes]] = 0
    k = min(6, len(writers))
    return NodeViews(
        nodes=np.array(nodes, str),
        writers=writers,
        prompts=np.array([f"prompt {i}" for i in range(both)]),
        tokens=np.vectorize(lambda i: TEXTS.get(int(i), ""), otypes=[str])(ids),
        token_ids=ids,
        pattern=pattern.astype(np.float32),
        distance=rng.random((n, n_pairs, n_tokens), np.float32),
        read=rng.standard_normal((n, n_pairs, n_tokens), np.float32),
        direct=rng.standard_normal((both, len(writers), 2), np.float32),
        logits=rng.standard_normal((both, 2), np.float32),
        most_ids=rng.integers(0, len(TEXTS), (n, both, 2)),
        most=rng.random((n, both, 2), np.float32),
        least_ids=rng.integers(0, len(TEXTS), (n, both, 2)),
        least=-rng.random((n, both, 2), np.float32),
        sources=rng.integers(-1, len(writers) - 1, (n, n_pairs, 3, k)),
        passed=rng.standard_normal((n, n_pairs, 3, k), np.float32),
        at=rng.integers(0, 4, (n, n_pairs, 3, k)),
    )


def test_all_that_is_packed_is_what_was_seen():
    views = make_views(["a1.h0", "m0"], (2, 2))
    found = node_panel.unpacked(node_panel.packed(views, TEXTS))
    assert found["pairs"] == 3
    assert found["tokens"][0] == views.tokens[0, :4].tolist()
    assert found["tokens"][5] == views.tokens[5].tolist()
    head, mlp = found["nodes"]["a1.h0"], found["nodes"]["m0"]
    for prompt, size in ((0, 4), (4, 5)):
        shades = np.array(head["pattern"][prompt]) / node_panel.SHADES
        np.testing.assert_allclose(shades, views.pattern[0, prompt, :size, :size], atol=0.0025)
    for name in ("distance", "read"):
        np.testing.assert_allclose(head[name][0], getattr(views, name)[0, 0, :4], rtol=6e-3)
        np.testing.assert_allclose(mlp[name][2], getattr(views, name)[1, 2], rtol=6e-3)
    for node, writer in ((head, "a1.h0"), (mlp, "m0")):
        at = list(views.writers).index(writer)
        np.testing.assert_allclose(node["adds"], views.direct[:, at], rtol=6e-3)
    np.testing.assert_allclose(found["logits"], views.logits, rtol=6e-3)
    assert head["most"][4][1][0] == TEXTS[views.most_ids[0, 4, 1]]
    assert mlp["least"][5][0][1] == pytest.approx(views.least[1, 5, 0], rel=6e-3)
    assert set(mlp) == set(head) - {"pattern"}
    for part, letter in enumerate("qkv"):
        wanted = [
            [str(views.writers[s]), pytest.approx(x, rel=6e-3), at]
            for s, x, at in zip(
                *(y[0, 1, part].tolist() for y in (views.sources, views.passed, views.at)),
                strict=True,
            )
            if s >= 0
        ]
        assert head["sources"][1][letter] == wanted
    assert list(mlp["sources"][0]) == ["in"]


def test_what_does_not_fit_is_left_out_pairs_first(monkeypatch):
    views = make_views(["a1.h0", "a0.h1", "a0.h0", "a1.h1"], (2, 2))
    whole = len(node_panel.packed(views, TEXTS))
    monkeypatch.setattr(node_panel, "MOST_BYTES", whole - 1)
    found = node_panel.unpacked(node_panel.packed(views, TEXTS))
    assert found["pairs"] == 2
    assert found["tokens"][2] == views.tokens[3].tolist()  # the first negative
    np.testing.assert_allclose(
        found["nodes"]["a0.h0"]["adds"][3], views.direct[4, 3 - 2], rtol=6e-3
    )
    monkeypatch.setattr(node_panel, "MOST_BYTES", 1)
    found = node_panel.unpacked(node_panel.packed(views, TEXTS))
    assert (found["pairs"], list(found["nodes"])) == (1, ["a1.h0"])


def with_views(shape=(2, 4), n=3, **sizes):
    results = make_results(shape, n=n)
    views = make_views([*named(results.circuit), "m0"], shape, n, **sizes)
    return dataclasses.replace(results, views=views, token_strings=results.token_strings | TEXTS)


def with_graph(results):
    """The results of a method that scores all edges of the graph."""
    rng, graph = np.random.default_rng(3), Graph(*results.circuit.heads.shape)
    effects = np.where(graph.is_edge, rng.standard_normal(graph.is_edge.shape), 0)
    details = {"graph_effects": effects, "node_scores": np.arange(1.0, len(graph.writers) + 1)}
    scores = results.scores.replace(details=results.scores.details | details)
    record = graph_circuit(scores, graph, share=0.9).to_json() | {"judgements": []}
    return dataclasses.replace(results, scores=scores, graph=record)


@pytest.fixture(scope="module")
def largest():
    """1,200 heads, a circuit of as many edges as the page can have, and long prompts."""
    results = with_views((48, 25), n=5, n_tokens=24)
    circuit = results.scores.circuit(n_edges=circuit_page.MOST_EDGES)
    return circuit_page.render(dataclasses.replace(results, circuit=circuit))


def test_the_largest_page_is_below_3_mb(largest):
    assert len(largest.encode()) < 3_000_000
    page = Page(largest)
    data = node_panel.unpacked(page.find(id="graph-data")[0]["text"])
    assert len(data["edges"]) == data["own"] == circuit_page.MOST_EDGES
    assert node_panel.unpacked(page.find(id="views")[0]["text"])["pairs"] >= 1
    assert page.find(download="circuit.json")[0]["href"] == "circuit.json"  # all of them


def test_edges_begin_with_the_circuits_and_fall():
    results = with_views((3, 4))
    page = Page(circuit_page.render(results))
    data = node_panel.unpacked(page.find(id="graph-data")[0]["text"])
    circuit = results.circuit
    own = [tuple(edge[:2]) for edge in data["edges"][: data["own"]]]
    width = circuit.heads.shape[1]
    wanted = [(a[0] * width + a[1], b[0] * width + b[1]) for a, b in circuit.ranked_edges()]
    assert sorted(own) == sorted(wanted)
    others = [score for *_, score in data["edges"][data["own"] :]]
    assert others == sorted(others, reverse=True)
    assert len(data["edges"]) == (circuit.edge_scores > 0).sum()
    assert data["size"] == circuit.size
    assert [1, 0.75, -0.25] in data["curve"]


def test_a_curve_without_a_meaning_is_not_beside_the_slider():
    results = with_views()
    judged = [dataclasses.replace(j, faithfulness=np.nan) for j in results.evaluation.judgements]
    evaluation = dataclasses.replace(results.evaluation, judgements=tuple(judged))
    page = Page(circuit_page.render(dataclasses.replace(results, evaluation=evaluation)))
    assert node_panel.unpacked(page.find(id="graph-data")[0]["text"])["curve"] == []


def drawn(path, anchor="", then=""):
    """The page as a browser has it when its scripts have run; `then` is a further one."""
    if then:
        done = f"<script>setTimeout(() => {{ {then} }}, 1000)</script></body>"
        path.write_text(path.read_text().replace("</body>", done))
    browser = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
    if browser is None:
        pytest.skip("no chromium, which runs the page's scripts")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    command = [browser, *flags, "--dump-dom", f"file://{path}{anchor}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "</html>" not in result.stdout:
        pytest.skip(f"{browser} does not start here: {result.stderr[-200:]}")
    return result.stdout


def test_a_permalink_opens_a_head_and_a_pair(tmp_path):
    results = with_views()
    layer, head = results.circuit.ranked_heads()[1]
    (tmp_path / "report.html").write_text(circuit_page.render(results))
    text = drawn(tmp_path / "report.html", f"#head={layer}.{head}&pair=2")
    page = Page(text)
    assert page.find(id="name")[0]["text"] == f"{layer}.{head}"
    pressed = [b["text"] for b in page.find(tag="button") if b.get("aria-pressed") == "true"]
    assert pressed == ["2"]
    views, node = results.views, 1
    told = [html.unescape(t) for t in re.findall('class="share"[^>]*data-tip="([^"]*)"', text)]
    wanted = sum((np.rint(views.pattern[node, p] * 255) >= 2).sum() for p in (1, 4))
    assert len(told) == wanted
    t, s = map(int, np.argwhere(views.pattern[node, 1] > 0.1)[0])
    share = np.rint(views.pattern[node, 1, t, s] * 255) / 255
    quoted = [f"\u201c{views.tokens[1, i]}\u201d" for i in (t, s)]
    assert f"at {quoted[0]} reads {quoted[1]} {share:.2f}" in told
    rows = [
        row["text"] for row in page.find(tag="tr") if row["text"].startswith(("query", "value"))
    ]
    assert len(rows) == 2
    assert (
        page.find(id="shown-faith")[0]["text"]
        == "keep a faithfulness of 0.75; random ones \u22120.25"
    )
    assert len(page.find(kind="node")) == results.circuit.size


def test_slider_pin_search_and_keys(tmp_path):
    results = with_views()
    (tmp_path / "report.html").write_text(circuit_page.render(results))
    order = np.argsort(-results.circuit.head_scores.ravel())
    ranked = [f"{g // 4}.{g % 4}" for g in order]
    act = f"""
      const input = (id) => byId(id).dispatchEvent(new Event("input"));
      const right = new KeyboardEvent("keydown", {{ key: "ArrowRight" }});
      byId("search").value = "{ranked[5]}"; input("search");
      byId("pin").click();
      byId("size").value = 0; input("size");
      select(byRank[0]);
      byId("graph").dispatchEvent(right);
      document.body.dataset.size = sizes.join();
    """
    page = Page(drawn(tmp_path / "report.html", then=act))
    shown = {int(node["data-g"]) for node in page.find(kind="node")}
    number = {name: int(name[0]) * 4 + int(name[2]) for name in ranked}
    assert shown == {number[ranked[0]], number[ranked[5]]}
    assert [int(n["data-g"]) for n in page.find(kind="pinned")] == [number[ranked[5]]]
    assert page.find(id="shown-size")[0]["text"] == "1 and 1 pinned"
    assert "0.75" in page.find(id="shown-faith")[0]["text"]  # judged at one head
    assert page.find(id="name")[0]["text"] == ranked[5]  # the other node that is shown
    assert page.find(tag="body")[0]["data-size"] == "1,2,3,4,5,6,7,8"


def test_a_head_that_was_not_looked_at_says_so(tmp_path):
    results = with_views()
    (tmp_path / "report.html").write_text(circuit_page.render(results))
    outside = "{}.{}".format(*np.argwhere(~results.circuit.heads)[0])
    page = Page(drawn(tmp_path / "report.html", f"#head={outside}"))
    assert page.find(id="says")[0]["text"].startswith(f"{outside} was not looked at")
    assert not page.find(tag="svg", kind="attention")


def test_an_mlp_opens_as_a_head_does(tmp_path):
    """By a permalink; what it adds, how far it moves, and what it draws on are there."""
    results = with_graph(with_views())
    (tmp_path / "report.html").write_text(circuit_page.render(results))
    text = drawn(tmp_path / "report.html", "#head=m0")
    page, views = Page(text), results.views
    told = [page.find(id=name)[0]["text"] for name in ("kind", "name", "score", "rank")]
    graph = Graph(2, 4)
    assert told == ["MLP", "m0", str(1 + graph.writers.index("m0")), ""]
    adds = views.direct[0, list(views.writers).index("m0")]
    wanted = f"{adds[0]:+.2g}".replace("-", "\u2212")
    assert wanted in page.find(id="says")[0]["text"]
    assert len(page.find(tag="svg", kind="attention")) == 1  # bars of the pair, without a map
    assert not page.find(kind="share")
    (row,) = page.find(id="drawn")[0]["text"].split("prediction")[1:]
    assert row.startswith("input")
    effects = np.asarray(results.scores.details["graph_effects"])
    heads = effects[1:5, graph.readers.index("m0")]
    strongest = page.find(id="sources")[0]["text"].split()[0]
    assert strongest == f"0.{np.argmax(np.abs(heads))}"
    assert [b["text"] for b in page.find(tag="button") if b["text"] in ("m0", "m1")] == ["m0", "m1"]


def test_the_whole_graphs_nodes_open_what_they_are(tmp_path):
    (tmp_path / "report.html").write_text(circuit_page.render(with_graph(with_views())))
    act = """
      const points = [...all("#graph-of-all [data-tip]")];
      const point = points.find((one) => one.dataset.tip.startsWith("m1:"));
      point.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      document.body.dataset.hash = location.hash;
    """
    page = Page(drawn(tmp_path / "report.html", then=act))
    assert page.find(id="name")[0]["text"] == "m1"
    assert page.find(tag="body")[0]["data-hash"] == "#head=m1"


def test_heads_in_groups(tmp_path):
    """By a name that is typed; the link has them, and what passes between groups adds up."""
    results = with_views((3, 4))
    (tmp_path / "report.html").write_text(circuit_page.render(results))
    act = """
      const typed = [[1, "early: one"], [2, "early  one"], [8, "late"], [9, "late"], [9, ""]];
      for (const [g, name] of typed) {
        select(g);
        byId("group").value = name;
        byId("group").onchange();
      }
      document.body.dataset.hash = location.hash;
    """
    page = Page(drawn(tmp_path / "report.html", then=act))
    hash_ = page.find(tag="body")[0]["data-hash"]
    assert hash_ == "#head=2.1&groups=early%20%20one%3A0.1%2C0.2|late%3A2.0"
    (tmp_path / "again.html").write_text(circuit_page.render(results))
    page = Page(drawn(tmp_path / "again.html", hash_))
    passes = results.circuit.edge_scores[[1, 2], 8].sum()
    told = page.find(id="groups")[0]["text"]
    assert "".join(told.split()) == f"earlyone0.10.2\u2192{passes:.2g}tolatelate2.0"
    grouped = {int(node["data-g"]) for node in page.find(kind="grouped")}
    assert grouped == {1, 2, 8}


def test_keys_read_a_pattern_off(tmp_path):
    results = with_views()
    (tmp_path / "report.html").write_text(circuit_page.render(results))
    best = "{}.{}".format(*results.circuit.ranked_heads()[0])
    act = """
      const figure = document.querySelector(".attention");
      for (const name of ["ArrowUp", "ArrowDown", "ArrowLeft"])
        figure.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
    """
    page = Page(drawn(tmp_path / "report.html", f"#head={best}", act))
    told = page.find(tag="p", kind="read-off")[0]["text"]
    views = results.views
    t = int(np.argmax(np.abs(views.read[0, 0, :4])))  # where most is read, and the best there
    s = int(np.argmax(np.rint(views.pattern[0, 0, t] * 255)))
    t, s = min(t + 1, 3), max(s - 1, 0)
    share = np.rint(views.pattern[0, 0, t, s] * 255) / 255
    assert (
        told
        == f"at \u201c{views.tokens[0, t]}\u201d reads \u201c{views.tokens[0, s]}\u201d {share:.2f}"
    )


def test_the_largest_page_is_drawn(tmp_path, largest):
    """What can be hovered over one by one, and all other curves as one path."""
    (tmp_path / "report.html").write_text(largest)
    page = Page(drawn(tmp_path / "report.html", "#head=3.7"))
    assert page.find(id="name")[0]["text"] == "3.7"
    assert len(page.find(kind="edge")) == 401
    curves = page.find(kind="edge")[0]["d"].count("M")
    assert curves == circuit_page.MOST_EDGES - 400
    assert len(page.find(kind="node")) == 300
