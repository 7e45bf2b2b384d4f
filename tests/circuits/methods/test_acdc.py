"""ACDC against plain loops over heads and over edges, one whole forward pass for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

import circuits_jax as cj
from circuits_jax import interpose
from circuits_jax.capture.ablation import trial
from circuits_jax.circuits.circuit import Scores
from circuits_jax.methods import discover, method_options
from circuits_jax.methods.acdc import Acdc, acdc
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

KEY = jax.random.key(0)
L, H = tiny.CONFIG.heads
G = L * H
EARLIER = np.arange(G)[:, None] // H < np.arange(G)[None] // H
THRESHOLDS = (0, 0.01, 0.03, 0.1, np.inf)
OF_EDGES = (0, 0.001, 0.01, np.inf)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2)


@pytest.fixture(scope="module")
def found(model, task):
    return acdc(model, task, KEY, Acdc(THRESHOLDS))


@pytest.fixture(scope="module")
def logits_under(model, task):
    """Logits with some heads replaced by those of the negative."""
    prepared = trial(model, task.learn, "resample")

    @jax.jit
    def run(keep):
        batch, replacement = prepared.batch, prepared.replacement
        return interpose.replace(model.config, model.params, batch, keep, replacement)

    return lambda keep: np.asarray(run(jnp.asarray(keep, jnp.float32)), np.float64)


def kl(whole, logits, pairs):
    whole, logits = log_softmax(whole, axis=-1), log_softmax(logits, axis=-1)
    return (np.exp(whole) * (whole - logits)).sum(axis=-1).mean()


def moved(whole, logits, pairs):
    def logit_diff(x):
        rows = np.arange(len(pairs))
        return x[rows, np.ravel(pairs.answers)] - x[rows, np.ravel(pairs.foils)]

    return np.abs(logit_diff(whole) - logit_diff(logits)).mean()


def loop(logits_under, pairs, threshold, divergence):
    """(which heads are left, the divergence with those)."""
    keep, left = np.ones((L, H)), 0.0
    whole = logits_under(keep)
    for layer in reversed(range(L)):
        for head in reversed(range(H)):
            fewer = keep.copy()
            fewer[layer, head] = 0
            now = divergence(whole, logits_under(fewer), pairs)
            if now - left < threshold:
                keep, left = fewer, now
    return keep, left


@pytest.mark.parametrize("at", [1, 2, 3])
def test_circuits_are_those_of_a_plain_loop(found, logits_under, task, at):
    keep, left = loop(logits_under, task.learn, THRESHOLDS[at], kl)
    np.testing.assert_array_equal(found.details["kept"][at], keep)
    np.testing.assert_allclose(found.details["divergences"][at], left, rtol=1e-3, atol=1e-5)
    assert 0 < keep.sum() < L * H


def test_circuits_by_the_metric_are_those_of_a_plain_loop(model, logits_under, task):
    keep, left = loop(logits_under, task.learn, 0.3, moved)
    found = discover(model, task, "acdc", thresholds=(0.3,), divergence="metric").details
    np.testing.assert_array_equal(found["kept"][0], keep)
    np.testing.assert_allclose(found["divergences"][0], left, rtol=1e-3, atol=1e-4)
    assert 0 < keep.sum() < L * H


def test_threshold_0_keeps_everything_and_infinity_nothing(found):
    kept, left = (np.asarray(found.details[name]) for name in ("kept", "divergences"))
    assert kept[0].all()
    assert left[0] == 0
    assert not kept[-1].any()
    assert left[-1] > 0


@pytest.mark.parametrize("thresholds", [(0,), (0, 1e-6)])
def test_a_head_without_any_effect_stays_at_0_only(model, task, thresholds):
    """Nothing tells the prompts of a pair apart, so no divergence ever moves."""
    learn = dataclasses.replace(task.learn, negatives=task.learn.positives)
    o = jnp.zeros_like(model.params["layers"]["attention"]["o"])
    silent = tiny.with_attention(model, o=o)
    for one, pairs in ((model, learn), (silent, task.learn)):
        found = acdc(one, dataclasses.replace(task, learn=pairs), KEY, Acdc(thresholds))
        kept = np.asarray(found.details["kept"])
        assert kept[0].all()
        assert not kept[1:].any()
        assert (np.asarray(found.head_scores) <= 1e-6).all()


def test_scores_rank_by_the_largest_threshold_survived(found):
    scores, kept = np.asarray(found.head_scores), np.asarray(found.details["kept"])
    for at, threshold in enumerate(THRESHOLDS[:-1]):
        np.testing.assert_array_equal(scores >= threshold, kept[at:].any(axis=0))
    last = np.array([np.flatnonzero(column)[-1] for column in kept.reshape(len(kept), -1).T])
    rises = np.asarray(found.details["rises"]).reshape(len(kept), -1)
    within = scores.reshape(-1) == rises[last, np.arange(L * H)]
    assert within.mean() > 0.5  # others were clipped to the next threshold
    just_below = float(np.nextafter(np.float32(0.03), np.float32(0)))
    circuit = Scores(scores, found.edge_scores).circuit(threshold=just_below)
    np.testing.assert_array_equal(circuit.heads, kept[2:].any(axis=0))


def test_thresholds_that_share_a_pass_change_nothing(model, task, found):
    alone = acdc(model, task, KEY, Acdc(THRESHOLDS, thresholds_at_once=1))
    np.testing.assert_array_equal(alone.details["kept"], found.details["kept"])


@pytest.fixture(scope="module")
def pruned(model, task):
    return acdc(model, task, KEY, Acdc(OF_EDGES, edges="pruned"))


@pytest.fixture(scope="module")
def logits_hearing(model, task):
    """Logits with some heads replaced, and some edges between heads cut."""
    prepared = trial(model, task.learn, "resample")

    @jax.jit
    def run(keep, keep_edges):
        batch, replacement = prepared.batch, prepared.replacement
        return interpose.replace_edges(
            model.config, model.params, batch, keep, keep_edges, replacement
        )

    def masks(keep, edges):
        return jnp.asarray(keep, jnp.float32).reshape(L, H), jnp.asarray(edges, jnp.float32)

    return lambda keep, edges: np.asarray(run(*masks(keep, edges)), np.float64)


def loop_over_edges(logits_hearing, pairs, threshold, divergence):
    """(heads that are left, edges that are left, the divergence with those, edges tested)."""
    keep, edges, left, tested = np.ones(G), EARLIER.copy(), 0.0, []
    whole = logits_hearing(keep, edges)

    def removable(edge, keep, edges):
        nonlocal left
        tested.append(edge)
        now = divergence(whole, logits_hearing(keep, edges), pairs)
        if now - left < threshold:
            left = now
            return True
        return False

    for layer in reversed(range(L)):
        heads = range(layer * H, (layer + 1) * H)[::-1]
        for head in heads:
            fewer = keep.copy()
            fewer[head] = 0
            if not edges[head].any() and removable((head, "output"), fewer, edges):
                keep = fewer
                edges[:, head] = False
        for head in heads:
            for writer in reversed(range(layer * H if keep[head] else 0)):
                fewer = edges.copy()
                fewer[writer, head] = False
                if removable((writer, head), keep, fewer):
                    edges = fewer
    return keep.reshape(L, H), edges, left, tested


@pytest.mark.parametrize("at", [1, 2])
def test_edges_are_those_of_a_plain_loop(pruned, logits_hearing, task, at):
    keep, edges, left, tested = loop_over_edges(logits_hearing, task.learn, OF_EDGES[at], kl)
    found = {name: value[at] for name, value in pruned.details.items()}
    np.testing.assert_array_equal(found["kept"], keep)
    np.testing.assert_array_equal(found["kept_edges"], edges)
    np.testing.assert_allclose(found["divergences"], left, rtol=1e-3, atol=1e-5)
    to_output = [head for head, reader in tested if reader == "output"]
    between = [edge for edge in tested if edge[1] != "output"]
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(found["rises"])), sorted(to_output))
    np.testing.assert_array_equal(np.argwhere(~np.isnan(found["edge_rises"])), sorted(between))
    assert 0 < edges.sum() < EARLIER.sum()
    assert len(tested) < G + EARLIER.sum()


def test_threshold_0_keeps_every_edge_and_infinity_none(pruned):
    kept, edges, left = (pruned.details[name] for name in ("kept", "kept_edges", "divergences"))
    assert kept[0].all()
    np.testing.assert_array_equal(edges[0], EARLIER)
    assert left[0] < 1e-6
    assert not kept[-1].any()
    assert not edges[-1].any()
    assert left[-1] > 0


def test_edges_rank_by_the_largest_threshold_survived(pruned):
    heads, scores = np.asarray(pruned.head_scores), np.asarray(pruned.edge_scores)
    kept, edges = pruned.details["kept"], pruned.details["kept_edges"]
    for at, threshold in enumerate(OF_EDGES[:-1]):
        survived = edges[at:].any(axis=0)
        np.testing.assert_array_equal((scores >= threshold) & EARLIER, survived)
        np.testing.assert_array_equal(heads >= threshold, kept[at:].any(axis=0))
    assert (scores[~EARLIER] == 0).all()
    ends = np.maximum(scores.max(axis=0), scores.max(axis=1)).reshape(L, H)
    assert (heads >= ends).all()
    assert (heads == ends).any()
    assert len(np.unique(scores[EARLIER])) > EARLIER.sum() / 2


def test_thresholds_that_share_a_pass_prune_the_same_edges(model, task, pruned):
    options = Acdc(OF_EDGES, edges="pruned", thresholds_at_once=1)
    alone = acdc(model, task, KEY, options)
    np.testing.assert_array_equal(alone.details["kept_edges"], pruned.details["kept_edges"])


def test_one_layer_has_only_edges_to_the_output(task):
    """So that pruning them is pruning heads."""
    one_layer = dataclasses.replace(tiny.CONFIG, n_layers=1, layer_kinds=(), windows=())
    model = tiny.model(one_layer)
    by_edge, by_head = (
        discover(model, task, "acdc", edges=edges) for edges in ("pruned", "product")
    )
    np.testing.assert_array_equal(by_edge.details["kept"], by_head.details["kept"])
    np.testing.assert_allclose(by_edge.head_scores, by_head.head_scores, rtol=1e-3, atol=1e-5)
    assert not by_edge.edge_scores.any()


def area(scores, truth):
    """ROC AUC of (heads, edges) against the truth."""
    n_layers, n_heads = scores.head_scores.shape
    earlier = np.arange(n_layers).repeat(n_heads)
    earlier = earlier[:, None] < earlier[None]
    true = np.zeros((n_layers, n_heads), bool)
    true[tuple(zip(*truth.heads, strict=True))] = True
    edges = np.zeros((n_layers, n_heads, n_layers, n_heads), bool)
    for writer, reader in truth.edges:
        edges[*writer, *reader] = True
    edges = edges.reshape(earlier.shape)
    return (
        roc_auc_score(true.ravel(), np.ravel(scores.head_scores)),
        roc_auc_score(edges[earlier], np.asarray(scores.edge_scores)[earlier]),
    )


def test_the_planted_edge_is_found():
    model = cj.load_model("planted:3x4:induction")
    task = cj.make_task("planted", model.tokenizer, n=5)
    found = discover(model, task, "acdc", edges="pruned", thresholds=(0.01, 0.1))
    assert area(found, task.truths[0]) == (1, 1)
    assert (found.details["kept_edges"].sum(axis=(1, 2)) == 1).all()


def test_what_goes_through_an_mlp_is_no_edge_between_heads():
    """In the compiled reverse, heads tell each other nothing but by MLPs."""
    model = cj.load_model("tracr:reverse")
    task = cj.make_task("compiled", model.tokenizer, n=5)
    found = discover(model, task, "acdc", edges="pruned", thresholds=(0.01, 0.1))
    assert area(found, task.truths[0])[0] == 1
    assert np.abs(np.asarray(found.edge_scores)).max() < 1e-5


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("thresholds", ()),
        ("thresholds", (0.1, 0.1)),
        ("thresholds", (-1.0, 0.1)),
        ("thresholds", (float("nan"),)),
        ("thresholds_at_once", 0),
    ],
)
def test_values_that_are_not_allowed_are_refused(option, value):
    with pytest.raises(InputError, match=f"{option} is .*; allowed"):
        method_options("acdc", **{option: value})
