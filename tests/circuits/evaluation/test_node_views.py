"""What a node does, against plain loops: pattern, movement, direct logits, sources."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.capture import slope_attribution
from circuits_jax.capture.forked import fork
from circuits_jax.circuits.circuit import Scores
from circuits_jax.circuits.graph import graph_of
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.decoder import stacked
from circuits_jax.evaluation import node_views
from circuits_jax.evaluation.node_views import load_node_views, view_nodes
from circuits_jax.methods.eap import eap
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import PromptPairs, Task
from tests.circuits import graph_reference, tiny

L, H, B = 3, 4, 3
NODES = ("a0.h1", "a2.h3", "m1", "a2.h0", "m2", "a1.h2")
CONFIGS = {  # all without a bias that writes to the logits
    "gemma": dataclasses.replace(
        tiny.CONFIG, post_norms=True, qk_norm=True, out_bias=False, windows=(3, NO_WINDOW, 3)
    ),
    "neox": dataclasses.replace(
        tiny.CONFIG, norm="layer_without_bias", parallel=True, gated_mlp=False, activation="gelu",
        out_bias=False, tied=False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def views():
    return view_nodes(tiny.model(), tiny.task(n=B), NODES)


@pytest.fixture(scope="module")
def written():
    """What every writer of the tiny Llama writes, [2 B T D], by a loop in float64."""
    return graph_reference.run(tiny.model(), token_ids())[0]


def token_ids():
    pairs = tiny.task(n=B).learn
    return np.array(
        [tiny.word_tokenizer()(p).input_ids for p in (*pairs.positives, *pairs.negatives)]
    )


def stream_before(written, layer, mlp=False):
    bias = np.asarray(tiny.model().params["layers"]["attention"]["o_bias"], np.float64)
    earlier = [x for n, x in written.items() if n == "input" or int(n[1:].split(".")[0]) < layer]
    if mlp:
        earlier += [written[f"a{layer}.h{head}"] for head in range(H)]
    return sum(earlier) + bias[: layer + mlp].sum(axis=0)


def test_tokens_are_the_prompts(views):
    np.testing.assert_array_equal(views.token_ids, token_ids())
    assert [" ".join(row) for row in views.tokens] == list(views.prompts)
    assert list(views.nodes) == list(NODES)


@pytest.mark.parametrize("name", ["a0.h1", "a2.h3", "a1.h2"])
def test_patterns_are_those_of_a_loop(views, written, name):
    model, (layer, head) = tiny.model(), map(int, name[1:].split(".h"))
    own = {
        n: np.asarray(x[layer], np.float64) for n, x in model.params["layers"]["attention"].items()
    }
    scale = np.asarray(model.params["layers"]["attention_norm"]["scale"][layer], np.float64)
    x = graph_reference.rms(stream_before(written, layer), scale, model.config.norm_eps)
    turn = model.config.rotary_frequencies[0]
    q = graph_reference.rotated(x @ own["q"][:, head], turn)
    k = graph_reference.rotated(x @ own["k"][:, head // 2], turn)
    wanted = np.zeros((2 * B, x.shape[1], x.shape[1]))
    for prompt in range(2 * B):
        for t in range(x.shape[1]):
            scores = [
                q[prompt, t] @ k[prompt, s] * model.config.attention_scale for s in range(t + 1)
            ]
            wanted[prompt, t, : t + 1] = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(views.pattern[views.index(name)], wanted, atol=2e-5)


def test_an_mlp_has_no_pattern(views):
    assert not views.pattern[views.index("m1")].any()


@pytest.mark.parametrize("name", NODES)
def test_distance_is_that_of_outputs_in_units_of_the_stream(views, written, name):
    layer = int(name[1:].split(".")[0])
    scale = np.sqrt(np.mean(stream_before(written, layer) ** 2, axis=-1, keepdims=True))
    positive, negative = np.split(written[name] / scale, 2)
    wanted = np.linalg.norm(positive - negative, axis=-1)
    np.testing.assert_allclose(views.distance[views.index(name)], wanted, rtol=1e-3, atol=1e-5)


def test_reading_is_the_flow_as_a_share(views):
    """Of what moves the prediction along p+ - p-: < d stream, weight > at the end."""
    model, pairs = tiny.model(), tiny.task(n=B).learn
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    batch = fork(stacked(sides), sides[0].tokens.shape[1])
    flow = slope_attribution.flows(model.config, model.params, batch)
    out, logits = graph_reference.run(model, token_ids())
    stream = stream_before(out, L)[:, -1]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scale = np.asarray(model.params["final_norm"]["scale"], np.float64)
    unembedding = np.asarray(model.params["embedding"], np.float64)
    for pair in range(B):
        rms = np.sqrt(np.mean(stream[pair] ** 2) + model.config.norm_eps)
        weight = (p[pair] - p[B + pair]) @ unembedding * scale / rms
        total = (stream[pair] - stream[B + pair]) @ weight
        for name in ("a0.h1", "a2.h3", "a1.h2"):
            layer, head = map(int, name[1:].split(".h"))
            wanted = flow.read[layer, pair, -11:, head] / total
            np.testing.assert_allclose(
                views.read[views.index(name), pair], wanted, rtol=2e-3, atol=1e-4
            )
        moved = (
            out["m2"][pair, -1] - out["m2"][B + pair, -1]
        )  # the last MLP is read by nothing else
        found = views.read[views.index("m2"), pair]
        np.testing.assert_allclose(found[-1], moved @ weight / total, rtol=2e-3, atol=1e-4)
        assert not found[:-1].any()


def test_direct_logits_are_those_of_a_loop(views, written):
    model, pairs = tiny.model(), tiny.task(n=B).learn
    scale = np.asarray(model.params["final_norm"]["scale"], np.float64)
    unembedding = np.asarray(model.params["embedding"], np.float64)
    last = stream_before(written, L)[:, -1]
    rms = np.sqrt(np.mean(last**2, axis=-1) + model.config.norm_eps)
    for prompt in range(2 * B):
        pair = prompt % B
        for number, writer in enumerate(views.writers[:-1]):
            added = written[writer][prompt, -1] / rms[prompt] * scale @ unembedding.T
            added = added - added.mean()
            wanted = [np.mean(added[list(ids[pair])]) for ids in (pairs.answers, pairs.foils)]
            np.testing.assert_allclose(views.direct[prompt, number], wanted, atol=2e-4)
            if writer in NODES:
                node, k = views.index(writer), views.most.shape[-1]
                np.testing.assert_allclose(
                    views.most[node, prompt], np.sort(added)[::-1][:k], atol=2e-4
                )
                np.testing.assert_allclose(views.least[node, prompt], np.sort(added)[:k], atol=2e-4)
                np.testing.assert_allclose(
                    added[views.most_ids[node, prompt]], views.most[node, prompt], atol=2e-4
                )
                np.testing.assert_allclose(
                    added[views.least_ids[node, prompt]], views.least[node, prompt], atol=2e-4
                )


@pytest.mark.parametrize("name", CONFIGS)
def test_direct_logits_sum_to_the_models(name):
    model, task = tiny.model(CONFIGS[name]), tiny.task(n=B)
    views = view_nodes(model, task, ["a1.h1"])
    logits = np.asarray(model.logits(list(views.prompts)))
    logits = logits - logits.mean(axis=1, keepdims=True)
    ids = [task.learn.answers * 2, task.learn.foils * 2]
    wanted = np.array([[logits[i, list(side[i])].mean() for side in ids] for i in range(2 * B)])
    np.testing.assert_allclose(views.logits, wanted, atol=2e-4)
    np.testing.assert_allclose(views.direct.sum(axis=1), wanted, atol=2e-4)
    np.testing.assert_allclose(views.direct[:, -1], 0, atol=2e-4)  # biases: there are none
    assert np.abs(views.direct[:, :-1]).max() > 0.05


DIRECTION = {}


def along(logits, targets):
    """A metric: along p+ - p-."""
    return jnp.sum(logits * DIRECTION["p"][None], axis=-1)


def test_where_prompts_hardly_differ_what_passes_is_the_gradients():
    """Every edge of the graph, by queries, keys and values, as `eap` has it by autodiff."""
    config = dataclasses.replace(tiny.CONFIG, norm="none", gated_mlp=False, activation="relu")
    model = tiny.model(config)
    (row,) = tiny.pairs(1)
    names = [tiny.WORDS.index(row[side].split()[-4]) for side in (0, 1)]
    params = jax.tree.map(lambda x: 0.6 * x, model.params)
    near = params["embedding"][names[0]] * (1 + 3e-3)
    params["embedding"] = params["embedding"].at[names[1]].set(near)
    model = dataclasses.replace(model, params=params)
    pairs = tiny.prompt_pairs([row])
    task = Task("near", "logit_diff", pairs, pairs)
    logits = model.logits([row[0], row[1]])
    positive, negative = jax.nn.softmax(logits)
    DIRECTION["p"] = positive - negative
    assert np.abs(DIRECTION["p"]).max() > 1e-5
    graph = graph_of(config)
    own = dataclasses.replace(task, metric=f"{__name__}:along")
    wanted = np.asarray(eap(model, own, jax.random.key(0)).details["graph_effects"])
    total = float((logits[0] - logits[1]) @ DIRECTION["p"])
    nodes = [n for n in graph.writers if n != "input"]
    views = many_sources(model, task, nodes, len(graph.writers))
    found, column = np.zeros_like(wanted), {n: i for i, n in enumerate(graph.readers)}
    for i, node in enumerate(nodes):
        for part, letter in enumerate("qkv"):
            reader = f"{node}<{letter}>" if node[0] == "a" else node
            for source, share in zip(
                views.sources[i, 0, part], views.passed[i, 0, part], strict=True
            ):
                if source >= 0:
                    found[source, column[reader]] += share * total
    inner = np.arange(len(graph.readers)) != column["logits"]
    largest = np.abs(wanted[:, inner]).max()
    for part in "qkv":
        own = [column[n] for n in column if f"<{part}>" in n]
        assert np.abs(wanted[:, own]).max() > 1e-3 * largest
    np.testing.assert_allclose(found[:, inner], wanted[:, inner], atol=0.01 * largest)
    for reader in np.flatnonzero(inner):
        at_most = 0.05 * np.abs(wanted[:, reader]).max() + 1e-6 * largest
        np.testing.assert_allclose(found[:, reader], wanted[:, reader], atol=at_most)


def many_sources(model, task, nodes, n):
    before = node_views.N_SOURCES
    node_views.N_SOURCES = n
    try:
        return view_nodes(model, task, nodes)
    finally:
        node_views.N_SOURCES = before


def test_sources_are_the_largest_and_say_at_which_token(views):
    whole = many_sources(tiny.model(), tiny.task(n=B), NODES, 16)
    k = views.sources.shape[-1]
    np.testing.assert_array_equal(views.sources, whole.sources[..., :k])
    sizes = np.abs(whole.passed)
    assert (np.diff(sizes, axis=-1) <= 1e-7).all()
    here = views.at[views.sources >= 0]
    assert (here >= 7).all()  # nothing moves before the first name that differs
    mlp = views.index("m1")
    assert (views.sources[mlp, :, 1:] == -1).all()
    assert not views.passed[mlp, :, 1:].any()
    times = dict(zip(views.writers, [0, *graph_of(tiny.CONFIG).write_times[1:], 99], strict=True))
    for node, name in enumerate(NODES):
        assert all(
            times[views.writers[s]] < times[name] for s in views.sources[node].flat if s >= 0
        )


def test_unequal_lengths_and_other_pairs_change_nothing():
    rows = [
        (
            "Ann and Bob went then Bob gave it to",
            "Ann and Cid Dee went out then Eve gave to",
            "Ann",
            "Bob",
        ),
        *tiny.pairs(2),
    ]
    whole = tiny.prompt_pairs(rows)
    model = tiny.model()
    alone, both = (
        view_nodes(model, Task("unequal", "logit_diff", pairs, pairs), NODES)
        for pairs in (whole[:1], whole)
    )
    n, m = 9, 10  # tokens
    np.testing.assert_array_equal((alone.token_ids >= 0).sum(axis=1), [n, m])
    assert " ".join(alone.tokens[0][:n]) == rows[0][0]
    assert " ".join(alone.tokens[1]) == rows[0][1]
    np.testing.assert_allclose(alone.pattern[:, 0, :n].sum(axis=-1)[[0, 1, 3, 5]], 1, atol=1e-5)
    assert not alone.pattern[:, 0, n:].any()
    assert not alone.pattern[:, 0, :, n:].any()
    for name in ("distance", "read", "passed"):
        x, y = (getattr(v, name)[:, 0] for v in (alone, both))
        y = y[:, : x.shape[1]] if name != "passed" else y
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * np.abs(x).max())
    np.testing.assert_allclose(alone.direct, both.direct[[0, 3]], atol=1e-4)
    np.testing.assert_allclose(alone.pattern[:, 1], both.pattern[:, 3, :m, :m], atol=1e-5)
    clear = np.abs(alone.passed) > 1e-3
    np.testing.assert_array_equal(alone.at[clear], both.at[:, :1][clear])


def test_pairs_and_nodes_are_as_many_as_fit(monkeypatch):
    model, task, of_one = tiny.model(), tiny.task(n=4), 2 * 12**2
    monkeypatch.setattr(node_views, "MOST_NUMBERS", of_one * 13)
    assert len(view_nodes(model, task, NODES).prompts) == 2 * 2
    assert len(view_nodes(model, task, NODES, n_pairs=1).prompts) == 2
    monkeypatch.setattr(node_views, "MOST_NUMBERS", of_one * 6)
    views = view_nodes(model, task, (*NODES, "a0.h0"))
    assert list(views.nodes) == list(NODES)
    assert len(views.prompts) == 2


def test_several_answers_count_as_their_mean_and_none_as_nothing():
    rows = tiny.prompt_pairs(tiny.pairs(2))
    several = PromptPairs(rows.positives, rows.negatives, ((3, 4), (5,)), ((), ()))
    task = Task("own", "log_prob", several, several)
    views = view_nodes(tiny.model(), task, NODES)
    logits = np.asarray(tiny.model().logits(list(rows.positives)))
    logits = logits - logits.mean(axis=1, keepdims=True)
    wanted = [[logits[0, [3, 4]].mean(), 0], [logits[1, 5], 0]]
    np.testing.assert_allclose(views.logits[:2], wanted, atol=2e-4)


def test_the_first_token_counts_of_answers_of_several():
    pairs = PromptPairs(("a",), ("b",), (((4, 2), 1),), (((3, 2),),))
    wanted = np.zeros((1, 2, 6))
    wanted[0, 0, [4, 1]], wanted[0, 1, 3] = 0.5, 1
    np.testing.assert_array_equal(node_views.answer_weights(pairs, 6), wanted)


def test_a_circuit_of_none_and_unknown_nodes():
    model, task = tiny.model(), tiny.task()
    views = view_nodes(model, task, [])
    assert views.pattern.shape[:2] == (0, 2 * B)
    assert repr(views) == "NodeViews(0 nodes, 3 pairs of prompts)"
    for name in ("a3.h0", "input", "logits", "a0.h4"):
        with pytest.raises(InputError, match=f"unknown node '{name}'"):
            view_nodes(model, task, [name])
    with pytest.raises(InputError, match="n_pairs is 0"):
        view_nodes(model, task, NODES, n_pairs=0)


def test_views_come_back_and_damage_is_named(tmp_path, views):
    views.save(tmp_path / "nodes.npz")
    again = load_node_views(tmp_path / "nodes.npz")
    for name, value in vars(views).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    fields = vars(views) | {"read": np.full_like(views.read, np.nan)}
    np.savez(tmp_path / "nan.npz", **fields)
    with pytest.raises(InputError, match="read holds nan"):
        load_node_views(tmp_path / "nan.npz")
    np.savez(tmp_path / "other.npz", nodes=np.zeros(2))
    with pytest.raises(InputError, match="does not hold views of nodes"):
        load_node_views(tmp_path / "other.npz")


def test_a_circuits_heads_are_looked_at_in_its_order():
    scores = Scores(np.arange(12.0).reshape(3, 4)[::-1], np.zeros((12, 12)))
    assert node_views.named(scores.circuit(size=3)) == ["a0.h3", "a0.h2", "a0.h1"]
