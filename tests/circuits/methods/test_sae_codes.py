"""The method from end to end on planted head outputs and on a tiny model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.capture.head_outputs import head_outputs, read_graph, read_outputs
from circuits_jax.circuits.graph import graph_of, head_edges
from circuits_jax.circuits.graph_circuit import graph_circuit
from circuits_jax.codes import codes, fit, sae
from circuits_jax.lm.load import load_model
from circuits_jax.methods import METHODS, discover, method_options
from circuits_jax.methods.sae_codes import (
    PUBLISHED,
    SaeCodes,
    inputs,
    paired_differences,
    sae_codes,
    score_outputs,
)
from circuits_jax.runs import keys
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task
from circuits_jax.tasks.task_warning import TaskWarning
from tests.circuits import tiny

B, L, H, D = 3, 3, 4, 16
KEY = jax.random.key(0)
FAST = {"steps": 40, "n_codes": 20, "learning_rate": 1e-2}
PLANTED = ((0, 1), (2, 3))


@pytest.fixture(scope="module")
def outputs():
    """Only the planted heads tell a positive prompt from its negative."""
    rng = np.random.default_rng(0)
    moved = 0.01 * rng.standard_normal((B, L, H, D))
    for layer, head in PLANTED:
        moved[:, layer, head] += 2 * rng.standard_normal(D)
    return paired_differences(jnp.asarray(moved, jnp.float32))


@pytest.fixture(scope="module")
def raw():
    """Outputs of unpaired prompts, as the published method sees them."""
    return jnp.asarray(np.random.default_rng(1).standard_normal((2 * B, L, H, D)), jnp.float32)


@pytest.fixture(scope="module")
def scores(outputs):
    return score_outputs(KEY, outputs, SaeCodes(**FAST), D)


def test_planted_heads_score_highest(scores):
    assert set(scores.circuit(size=2).ranked_heads()) == set(PLANTED)
    found = np.asarray(scores.head_scores)
    planted = [found[head] for head in PLANTED]
    assert min(planted) > 5 * np.sort(found, axis=None)[-3]
    assert scores.circuit(size=2).ranked_edges() == [PLANTED]


@pytest.mark.parametrize("program", ["reverse", "dyck", "hist"])
def test_every_head_of_a_compiled_program_is_found(program):
    """Heads that only measure a length, or steps that only the negative prompt takes, included."""
    model = load_model(f"tracr:{program}")
    task = make_task("compiled", model.tokenizer, n=5, n_held_out=1, seed=1)
    found = np.asarray(discover(model, task).head_scores)
    true = np.zeros(found.shape, bool)
    true[tuple(np.array(sorted(task.truths[0].heads)).T)] = True
    assert found[true].min() > 10 * found[~true].max()


def test_shapes_and_details(scores):
    assert scores.head_scores.shape == (L, H)
    assert scores.edge_scores.shape == (L * H, L * H)
    assert scores.details["codes"].shape == scores.details["strengths"].shape == (2 * B, L * H)
    assert scores.details["losses"].shape == (FAST["steps"], L * H)
    code, strength = (np.asarray(scores.details[name]) for name in ("codes", "strengths"))
    assert ((code >= 0) & (code <= 20)).all()
    np.testing.assert_array_equal(code == 20, strength == 0)


def test_scores_are_read_off_the_codes(outputs, scores):
    code, strength = (jnp.asarray(scores.details[name]) for name in ("codes", "strengths"))
    halves = code[:B], code[B:]
    np.testing.assert_allclose(
        scores.head_scores.reshape(-1), codes.evidence(*halves, strength[:B]), rtol=1e-5
    )
    pairs = codes.directed(codes.evidence_pairs(*halves, strength[:B]), (L, H))
    np.testing.assert_allclose(scores.edge_scores, pairs, rtol=1e-5)


def test_details_are_those_of_autoencoders_fitted_by_hand(outputs, scores):
    x, scale = inputs(outputs, SaeCodes(**FAST), D)
    config = sae.SaeConfig(20, "topk", 1, 40)
    params, losses = fit.fit(KEY, x, config, sae.Settings(0.02, 1e-2), d_model=D)
    h = fit.activations(params, x, config)[0, 0]
    # Eigenvectors differ by rounding from one compiled program to another.
    np.testing.assert_allclose(scores.details["losses"], losses[0, 0].T, rtol=5e-3, atol=1e-5)
    said = np.linalg.norm(np.einsum("gnf,gfr->gnr", h, params.decoder[0, 0]), axis=-1)
    found = scores.details["strengths"].T
    np.testing.assert_allclose(found, said * scale[:, None], rtol=3e-2, atol=1e-3)
    assert (np.count_nonzero(h, axis=-1) <= 1).all()  # a row is one code


def test_heads_are_as_strong_as_they_move(outputs, scores):
    """A head's own unit is put back: heads of equal shape score by their size."""
    moved = np.asarray(outputs[:B] - outputs[B:])
    length = np.linalg.norm(moved, axis=-1).mean(0) / 2
    found = np.asarray(scores.head_scores)
    assert (found <= 1.2 * length).all()
    assert (found >= 0.3 * length).all()
    doubled = score_outputs(KEY, 2 * outputs, SaeCodes(**FAST), D)
    np.testing.assert_allclose(doubled.head_scores, 2 * found, rtol=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused(outputs, bad):
    with pytest.raises(InputError, match="an output of a head is not finite"):
        score_outputs(KEY, outputs.at[1, 2, 0, 3].set(bad), SaeCodes(**FAST), D)


def test_published_options_count_codes_of_one_shared_autoencoder(raw):
    options = dataclasses.replace(PUBLISHED, **FAST)
    found = score_outputs(KEY, raw, options, D)
    code = jnp.asarray(found.details["codes"])
    wanted = codes.unique(code[:B], code[B:]).reshape(L, H)
    np.testing.assert_array_equal(found.head_scores, wanted)
    pairs = codes.directed(codes.unique_pairs(code[:B], code[B:]), (L, H))
    np.testing.assert_array_equal(found.edge_scores, pairs)
    assert found.details["losses"].shape == (40, 1)


def test_the_published_settings():
    """Of arXiv 2405.12522: 200 codes, 500 steps, penalty .02, learning rate .001, mean outputs."""
    assert (PUBLISHED.n_codes, PUBLISHED.steps) == (200, 500)
    assert (PUBLISHED.l1, PUBLISHED.learning_rate) == (0.02, 1e-3)
    assert (PUBLISHED.position, PUBLISHED.activation, PUBLISHED.score) == ("mean", "relu", "unique")


def test_inputs_of_the_published_method_are_the_raw_rows(raw):
    x, scale = inputs(raw, PUBLISHED, D)
    assert x.shape == (1, 2 * B * L * H, D)
    np.testing.assert_array_equal(x[0, 2 * B : 4 * B], raw[:, 0, 1])  # rows of head (0, 1)
    np.testing.assert_array_equal(scale, 1)


def test_isometric_inputs_in_units_of_each_head(outputs, raw):
    full, scale = inputs(outputs, SaeCodes(basis="full"), D)
    assert full.shape == (L * H, 2 * B, D)
    np.testing.assert_allclose(full[:, :B] + full[:, B:], 0, atol=1e-5)
    np.testing.assert_allclose(jnp.mean(full**2, axis=(1, 2)), 1, rtol=1e-5)
    back = (full * scale[:, None, None]).swapaxes(0, 1).reshape(outputs.shape)
    np.testing.assert_allclose(back, outputs, rtol=1e-5, atol=1e-6)
    narrow, same = inputs(outputs, SaeCodes(), D)
    np.testing.assert_array_equal(same, scale)
    assert narrow.shape == (L * H, 2 * B, B)  # the two of a pair are opposite
    products = (jnp.einsum("gnr,gmr->gnm", x, x) for x in (full, narrow))
    np.testing.assert_allclose(*products, atol=1e-3)
    unpaired, _ = inputs(raw, SaeCodes(position="mean"), D)
    assert unpaired.shape == (L * H, 2 * B, 2 * B)


@pytest.mark.parametrize(("softmax", "axes"), [("layer", 1), ("all", (0, 1))])
def test_softmax_sums_to_one(outputs, softmax, axes):
    options = SaeCodes(**FAST, softmax=softmax, score="unique_fraction", activation="relu")
    found = score_outputs(KEY, outputs, options, D)
    np.testing.assert_allclose(np.sum(found.head_scores, axis=axes), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def test_discover_on_a_model(model):
    task = tiny.task()
    found = discover(model, task, seed=3, **FAST)
    assert found.head_scores.shape == (L, H)
    assert np.isfinite(found.head_scores).all()
    assert (np.asarray(found.head_scores) >= 0).all()
    rows = paired_differences(read_outputs(model, task.learn))
    key = keys.stream(3, "method")
    by_hand = score_outputs(key, rows, SaeCodes(**FAST), model.config.head_width)
    np.testing.assert_array_equal(found.head_scores, by_hand.head_scores)
    np.testing.assert_array_equal(
        discover(model, task, seed=3, **FAST).head_scores, found.head_scores
    )
    other = discover(model, task, seed=4, **FAST)
    assert not np.array_equal(other.head_scores, found.head_scores)


@pytest.mark.parametrize("position", ["mean", "last"])
def test_positions_are_those_of_head_outputs(model, position):
    task = tiny.task()
    options = SaeCodes(**FAST, position=position)
    prompts = [*task.learn.positives, *task.learn.negatives]
    found_outputs = head_outputs(model, prompts, position)
    by_hand = score_outputs(KEY, found_outputs, options, model.config.head_width)
    found = sae_codes(model, task, KEY, options)
    np.testing.assert_array_equal(found.head_scores, by_hand.head_scores)


def test_held_out_prompts_and_answers_are_not_looked_at(model):
    task = tiny.task()
    learn = dataclasses.replace(task.learn, answers=task.learn.foils, foils=task.learn.answers)
    held_out = tiny.prompt_pairs(tiny.pairs(2, seed=9))
    blind = dataclasses.replace(task, learn=learn, held_out=held_out)
    options = SaeCodes(**FAST, edges_to="prediction")
    found, same = (sae_codes(model, t, KEY, options) for t in (task, blind))
    np.testing.assert_array_equal(found.head_scores, same.head_scores)
    np.testing.assert_array_equal(found.edge_scores, same.edge_scores)


def test_edges_are_towards_the_metric_and_heads_are_as_without(model):
    """Answers for foils turn every sign; those of several tokens are not looked at."""
    task, edges = tiny.task(), "graph_effects"
    learn = dataclasses.replace(task.learn, answers=task.learn.foils, foils=task.learn.answers)
    found, turned, blind = (
        sae_codes(model, dataclasses.replace(task, learn=pairs), KEY, SaeCodes(**FAST, edges_to=to))
        for pairs, to in ((task.learn, "metric"), (learn, "metric"), (learn, "prediction"))
    )
    for other in (turned, blind):
        np.testing.assert_array_equal(found.head_scores, other.head_scores)
    np.testing.assert_allclose(found.details[edges], -turned.details[edges], rtol=1e-4, atol=1e-7)
    assert not np.allclose(np.abs(found.details[edges]), np.abs(blind.details[edges]), rtol=0.1)
    long = tuple((answers + answers,) for answers in learn.answers)
    several = dataclasses.replace(task, learn=dataclasses.replace(learn, answers=long))
    same = sae_codes(model, several, KEY, SaeCodes(**FAST))
    np.testing.assert_array_equal(same.details[edges], blind.details[edges])


def right_or_wrong(logits, targets):
    """A metric that moves in steps."""
    best = jnp.argmax(logits, axis=-1, keepdims=True)
    return jnp.any(best == targets.answer_ids, axis=-1).astype(jnp.float32)


def test_a_metric_without_slope_is_told(model):
    """Heads are as they are; no edge has an effect, and a sentence says what to do."""
    task = dataclasses.replace(tiny.task(), metric=f"{__name__}:right_or_wrong")
    with pytest.warns(TaskWarning, match="metric .*right_or_wrong.* edges_to='prediction'"):
        found = sae_codes(model, task, KEY, SaeCodes(**FAST))
    same = sae_codes(model, task, KEY, SaeCodes(**FAST, edges_to="prediction"))
    np.testing.assert_array_equal(found.head_scores, same.head_scores)
    assert not found.details["graph_effects"].any()
    assert same.details["graph_effects"].any()


def test_all_edges_are_scored_and_heads_stay_as_they_are(model):
    """What passes is of the graph, signed; scores of heads are bit for bit those without edges."""
    task, graph = tiny.task(), graph_of(model.config)
    found = discover(model, task, seed=3, **FAST)
    alone = discover(model, task, seed=3, **FAST, edges="together")
    np.testing.assert_array_equal(found.head_scores, alone.head_scores)
    assert "graph_effects" not in alone.details
    effects, nodes = (np.asarray(found.details[n]) for n in ("graph_effects", "node_scores"))
    assert (effects[~graph.is_edge] == 0).all()
    assert (effects < 0).any()
    assert (effects > 0).any()
    np.testing.assert_array_equal(nodes[graph.head_writers], np.ravel(found.head_scores))
    assert (nodes[np.append(0, graph.mlp_writers)] > 0).all()
    reading = read_graph(model, task.learn, metric=task.metric)
    passes = np.asarray(reading.passes) * graph.is_edge
    np.testing.assert_allclose(np.abs(effects), np.abs(passes).mean(axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(np.sign(effects), np.sign(passes.mean(axis=0)))
    direct = np.abs(head_edges(graph, effects))
    over = np.asarray(found.edge_scores) - direct
    assert 0 < over.max() <= 1.001e-3 * direct.max()  # a pair nothing passes between has a rank
    assert graph_circuit(found, graph, share=0.5).size > 0


@pytest.mark.parametrize(
    ("program", "seed"),
    [("hist", 0), ("sort_unique", 0), ("sort_unique", 9), ("reverse", 0), ("frac_prevs", 0)],
)
def test_every_edge_of_a_compiled_program_is_found(program, seed):
    """MLPs, queries, keys and values included, and pairs of heads that MLPs join.

    Also where what moves a neuron cancels in every pair, and it is given the same by both.
    """
    model = load_model(f"tracr:{program}")
    task = make_task("compiled", model.tokenizer, n=5, n_held_out=1, seed=seed)
    graph, truth, scores = graph_of(model.config), task.truths[0], discover(model, task)
    true = graph.mask(truth.graph_edges)
    effects = np.abs(scores.details["graph_effects"])
    assert effects[true].min() > 1e3 * effects[graph.is_edge & ~true].max()
    if truth.edges:
        n, pairs = model.config.n_heads, np.asarray(scores.edge_scores)
        real = np.zeros(pairs.shape, bool)
        for (a, i), (b, j) in truth.edges:
            real[a * n + i, b * n + j] = True
        assert pairs[real].min() > 10 * pairs[~real].max()


def test_two_programs_lead_from_tokens_to_scores(model):
    """That nothing passes through the host in either is seen where they are lowered, as one."""
    found, task = [], tiny.task(n=2)
    head_outputs(model, task.learn.positives)  # tokens are laid out
    key = keys.stream(0, "method")
    jax.random.fold_in(key, 1)

    def heard(event, seconds, fun_name="", **_):
        laid_out = fun_name in ("jit(concatenate)", "jit(_multi_slice)")  # tokens, on devices
        if event.endswith("backend_compile_duration") and not laid_out:
            found.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        sae_codes(model, task, key, SaeCodes(**FAST | {"steps": 7}))
        assert found == ["jit(_graph_at_peak)", "jit(_graph_coded)"]
        sae_codes(model, task, key, SaeCodes(**FAST | {"steps": 7}, l1=0.3, read_weight=0.1))
        assert len(found) == 2  # numbers are no part of them
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def test_identical_prompts_of_a_pair_are_no_evidence(model):
    task = tiny.task()
    learn = dataclasses.replace(task.learn, negatives=task.learn.positives)
    found = sae_codes(model, dataclasses.replace(task, learn=learn), KEY, SaeCodes(**FAST))
    np.testing.assert_allclose(found.head_scores, 0, atol=1e-6)
    np.testing.assert_allclose(found.edge_scores, 0, atol=1e-6)


def test_methods_by_name():
    assert METHODS["sae_codes_published"].options == PUBLISHED
    assert method_options("sae_codes", l1=0.5) == SaeCodes(l1=0.5)
    with pytest.raises(InputError, match="unknown method 'sae_code'; did you mean 'sae_codes'"):
        method_options("sae_code")
    with pytest.raises(InputError, match="unknown option of method sae_codes 'n_code'; did you"):
        method_options("sae_codes", n_code=3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_codes", 0),
        ("steps", -1),
        ("l1", -0.1),
        ("read_weight", 1.5),
        ("learning_rate", 0.0),
    ],
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(InputError, match=f"{option} is {value!r}; allowed"):
        method_options("sae_codes", **{option: value})


@pytest.mark.parametrize("k", [0, 21])
def test_topk_needs_a_k_among_its_codes(k):
    assert method_options("sae_codes", n_codes=20, activation="topk", k=20).k == 20
    with pytest.raises(InputError, match=f"k is {k}; allowed is 1 to 20"):
        method_options("sae_codes", n_codes=20, activation="topk", k=k)


def test_endpoints_count_the_best_edges(outputs):
    found = score_outputs(KEY, outputs, SaeCodes(**FAST, score="endpoints", n_edges=4), D)
    edges = np.asarray(found.edge_scores)
    best = np.argsort(-edges, axis=None, kind="stable")[:4]
    counts = np.bincount(np.concatenate(np.divmod(best, L * H)), minlength=L * H)
    np.testing.assert_array_equal(np.ravel(found.head_scores), counts)
