"""How good a circuit is: what must hold for any model, and hand-made values."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from circuits_jax import interpose
from circuits_jax.capture.ablation import ABLATIONS, trial
from circuits_jax.circuits.circuit import Scores
from circuits_jax.evaluation import masked_passes
from circuits_jax.evaluation.faithfulness import (
    ABLATED,
    EvaluationOptions,
    against_truth,
    edges_between,
    evaluate,
    evaluation_from_json,
    faithfulness,
    random_edges,
    random_masks,
)
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.lm import performance
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.files import plain
from circuits_jax.tasks import PromptPairs, metric_values, targets
from tests.circuits import tiny

L, H, G = 3, 4, 12
RNG = np.random.default_rng(0)
SCORES = Scores(RNG.lognormal(size=(L, H)).astype(np.float32), np.zeros((G, G), np.float32))
OPTIONS = EvaluationOptions(curve=(0.25, 1.0), n_random=2, masks_at_once=2)
WITH_EDGES = Scores(
    SCORES.head_scores, RNG.random((G, G), np.float32) * edges_between(np.ones((L, H), bool))
)
EDGE_KINDS = ("edges", "edges_complement", "random_edges")


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def task():
    truths = (tiny.truth({(0, 1), (2, 3)}), tiny.truth({(1, 1)}, model="gpt2", name="other model"))
    return tiny.task(truths=truths)


@pytest.fixture(scope="module")
def evaluation(model, task):
    return evaluate(model, task, SCORES.circuit(size=3), jax.random.key(1), OPTIONS)


def metric(model, prepared, keep, masks_at_once=1):
    keep = jnp.asarray(keep, jnp.float32)
    return np.asarray(
        metric_under(model.config, model.params, prepared, keep, "logit_diff", masks_at_once)
    )


def by_kind(evaluation):
    return {(j.ablation, j.kept, j.size): j for j in evaluation.judgements}


def test_a_circuit_of_another_shape_is_refused(model, task):
    heads, pairs = np.ones((1, 4), np.float32), np.zeros((4, 4), np.float32)
    with pytest.raises(InputError, match="the circuit is of 1 layers of 4 heads; allowed are"):
        evaluate(model, task, Scores(heads, pairs, {}).circuit(size=1))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("curve", (float("nan"),), "curve has nan; allowed is 0 to 1"),
        ("curve", (0.1, 1.5), "curve has 1.5; allowed is 0 to 1"),
        ("n_random", -1, "n_random is -1"),
        ("masks_at_once", 0, "masks_at_once is 0"),
    ],
)
def test_options_that_are_not_allowed(option, value, said):
    with pytest.raises(InputError, match=said):
        EvaluationOptions(**{option: value})


def test_all_heads_are_faithful_and_none_is_not(model, task):
    """The whole curve ends at 1, its complement at 0, whatever the ablation."""
    everything = evaluate(model, task, SCORES.circuit(size=G), options=OPTIONS)
    for ablation in ABLATIONS:
        judged = by_kind(everything)
        for kept, share in (("circuit", 1), ("complement", 0), ("random", 1)):
            found = judged[ablation, kept, G]
            np.testing.assert_allclose(found.faithfulness, share, atol=1e-4)
            np.testing.assert_allclose(found.spread, 0, atol=1e-5)
        np.testing.assert_allclose(
            judged[ablation, "circuit", G].metric, everything.positive_metric, atol=1e-4
        )


def test_what_is_judged(evaluation):
    kinds = ("circuit", "complement", "random")
    wanted = {("mean", kept, size) for kept in kinds for size in (3, G)}
    wanted |= {(ablation, kept, 3) for kept in kinds for ablation in ("zero", "resample")}
    assert set(by_kind(evaluation)) == wanted
    assert len(evaluation.judgements) == len(wanted)


def test_judgements_are_the_definition(model, task, evaluation):
    """Recomputed mask by mask."""
    circuit = SCORES.circuit(size=3).heads
    judged = by_kind(evaluation)
    for ablation in ABLATIONS:
        masks = np.stack([np.ones((L, H)), np.zeros((L, H)), circuit, ~circuit])
        prepared = trial(model, task.held_out, ablation)
        full, empty, kept, rest = metric(model, prepared, masks).mean(axis=1)
        for kind, value in (("circuit", kept), ("complement", rest)):
            found = judged[ablation, kind, 3]
            np.testing.assert_allclose(found.metric, value, rtol=1e-3, atol=1e-5)
            share = (value - empty) / (full - empty)
            np.testing.assert_allclose(found.faithfulness, share, rtol=1e-3, atol=1e-4)
            assert found.spread == 0


def test_divergence_is_the_definition(model, task, evaluation):
    """KL of next-token distributions, prompt by prompt, from two separate forward passes."""
    circuit = SCORES.circuit(size=3).heads
    prepared = trial(model, task.held_out, "mean")
    replace = jax.jit(interpose.replace, static_argnums=0)
    whole, kept = (
        np.asarray(
            jax.nn.log_softmax(
                replace(
                    model.config,
                    model.params,
                    prepared.batch,
                    jnp.asarray(mask, jnp.float32),
                    prepared.replacement,
                )
            )
        )
        for mask in (np.ones((L, H)), circuit)
    )
    wanted = np.sum(np.exp(whole) * (whole - kept), axis=1)
    found = by_kind(evaluation)["mean", "circuit", 3]
    assert wanted.min() > 1e-3
    np.testing.assert_allclose(found.divergence, wanted.mean(), rtol=1e-3)
    np.testing.assert_allclose(found.worst_divergence, wanted.max(), rtol=1e-3)
    everything = by_kind(evaluation)["mean", "circuit", G]
    np.testing.assert_allclose(everything.worst_divergence, 0, atol=1e-5)
    for judgement in evaluation.judgements:
        assert 0 <= judgement.divergence <= judgement.worst_divergence + 1e-6


@pytest.fixture(scope="module")
def with_edges():
    """Seven heads, four of the edges among them."""
    circuit = WITH_EDGES.circuit(size=7, n_edges=4)
    assert circuit.edges.sum() == 4 < edges_between(circuit.heads).sum() - 2
    return circuit


@pytest.fixture(scope="module")
def evaluation_of_edges(model, task, with_edges):
    return evaluate(model, task, with_edges, jax.random.key(1), OPTIONS)


def test_edges_are_judged_at_the_circuits_own_size_where_it_has_some(
    model, task, evaluation_of_edges, evaluation, with_edges
):
    found = [key for key in by_kind(evaluation_of_edges) if key[1] in EDGE_KINDS]
    assert sorted(found) == sorted((a, kind, 7) for a in ABLATIONS for kind in EDGE_KINDS)
    assert not any(j.kept in EDGE_KINDS for j in evaluation.judgements)
    options = EvaluationOptions(("zero",), curve=(), n_random=0)
    alone = evaluate(model, task, with_edges, options=options)
    assert [j.kept for j in alone.judgements] == ["circuit", "complement", *EDGE_KINDS[:2]]


def test_judgements_of_edges_are_the_definition(model, task, with_edges, evaluation_of_edges):
    """Recomputed choice by choice, divergences too."""
    heads = jnp.asarray(with_edges.heads, jnp.float32)
    among = edges_between(with_edges.heads)
    own = with_edges.edges
    drawn = random_edges(jax.random.fold_in(jax.random.key(1), 1), among, int(own.sum()), 2)
    chosen = [("edges", own[None]), ("edges_complement", (among & ~own)[None])]
    chosen.append(("random_edges", drawn))
    replace_edges = jax.jit(interpose.replace_edges, static_argnums=0)
    for ablation in ABLATIONS:
        prepared = trial(model, task.held_out, ablation)
        ends = metric(model, prepared, np.stack([np.ones((L, H)), np.zeros((L, H))])).mean(axis=1)
        whole = jax.nn.log_softmax(
            interpose.last_logits(model.config, model.params, prepared.batch)
        )
        for kind, masks in chosen:
            logits = jnp.stack(
                [
                    replace_edges(
                        model.config,
                        model.params,
                        prepared.batch,
                        heads,
                        jnp.asarray(mask, jnp.float32),
                        prepared.replacement,
                    )
                    for mask in masks
                ]
            )
            values = [metric_values(x, prepared.targets, "logit_diff").mean() for x in logits]
            share = (np.array(values) - ends[1]) / (ends[0] - ends[1])
            lost = whole[None] - jax.nn.log_softmax(logits)
            divergence = np.sum(np.exp(whole)[None] * lost, axis=-1)
            found = by_kind(evaluation_of_edges)[ablation, kind, 7]
            for name, wanted in (
                ("metric", np.mean(values)),
                ("faithfulness", share.mean()),
                ("spread", share.std()),
                ("divergence", divergence.mean()),
                ("worst_divergence", divergence.max()),
            ):
                np.testing.assert_allclose(getattr(found, name), wanted, rtol=2e-3, atol=1e-3)
        judged = by_kind(evaluation_of_edges)
        shares = [judged[ablation, k, 7].faithfulness for k in ("circuit", *EDGE_KINDS)]
        assert np.ptp(shares) > 0.01


def test_all_edges_among_the_heads_are_as_faithful_as_the_heads(model, task):
    circuit = WITH_EDGES.circuit(size=7, n_edges=G * G)
    np.testing.assert_array_equal(circuit.edges, edges_between(circuit.heads))
    judged = by_kind(evaluate(model, task, circuit, options=OPTIONS))
    for ablation in ABLATIONS:
        wanted = judged[ablation, "circuit", 7]
        for kind in ("edges", "random_edges"):
            found = judged[ablation, kind, 7]
            for name in ("metric", "faithfulness", "divergence"):
                np.testing.assert_allclose(
                    getattr(found, name), getattr(wanted, name), rtol=1e-3, atol=1e-3
                )
            np.testing.assert_allclose(found.spread, 0, atol=1e-5)


def test_edges_between_heads_and_random_ones_among_them():
    heads = np.zeros((L, H), bool)
    heads[[0, 0, 1, 2], [1, 3, 0, 2]] = True
    among = edges_between(heads)
    assert np.argwhere(among).tolist() == [[1, 4], [1, 10], [3, 4], [3, 10], [4, 10]]
    drawn = random_edges(jax.random.key(0), among, 2, 30)
    assert drawn.shape == (30, G, G)
    assert drawn.dtype == bool
    np.testing.assert_array_equal(drawn.sum((1, 2)), 2)
    np.testing.assert_array_equal(drawn.any(0), among)  # none is never drawn, no other ever is
    assert random_edges(jax.random.key(0), among, 2, 0).shape == (0, G, G)
    assert random_edges(jax.random.key(0), among, 9, 1).sum() == 5


def test_parts_are_found_again_after_a_stop(model, task, with_edges, evaluation_of_edges):
    """Stopped at any part, an evaluation goes on there and ends as one that was not stopped."""
    names = [*(f"mean{part}" for part in ("", "-curve", "-edges")), "zero", "zero-edges"]
    names += ["resample", "resample-edges"]
    kept, made = {}, []

    def keep(stop, name, make, *args):
        if name not in kept:
            if name == stop:
                raise KeyboardInterrupt
            made.append(name)
            kept[name] = json.loads(json.dumps(plain(make(*args))))
        return kept[name]

    def judge(stop=None):
        keep_or_stop = functools.partial(keep, stop)
        return evaluate(model, task, with_edges, 1, OPTIONS, keep=keep_or_stop, measured=measured)

    measured = evaluation_of_edges.performance
    for name in ("mean", "mean-curve", "zero-edges"):
        with pytest.raises(KeyboardInterrupt):
            judge(name)
    found = judge()
    assert made == names  # each once
    assert found == evaluate(model, task, with_edges, 1, OPTIONS)


def test_the_curve_ends_where_scores_are_noise(model, task):
    """No head of noise is in any circuit of the curve: not in its larger ones either."""
    few = np.zeros((L, H), np.float32)
    few[0, 1], few[1, 2], few[2, 0] = 3, 2, 1e-9
    circuit = Scores(few, np.zeros((G, G))).circuit(size=1)
    options = EvaluationOptions(("zero",), curve=(0.1, 0.25, 0.5, 1.0), n_random=0)
    found = evaluate(model, task, circuit, options=options)
    assert [(j.kept, j.size) for j in found.judgements if j.kept == "circuit"] == [
        ("circuit", 1),
        ("circuit", 2),
    ]
    nothing = Scores(0 * few, np.zeros((G, G))).circuit(size=3)
    found = evaluate(model, task, nothing, options=options)
    assert [j.size for j in found.judgements] == [0, 0]
    assert "the circuit has 0 of the 3 heads asked for" in found.warnings[-1]


def test_an_evaluation_prints_as_a_short_table(evaluation_of_edges, model, task, evaluation):
    text = str(evaluation_of_edges)
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["learnt", "3"], ["held", "out"]]
    assert "faithfulness, 7 heads" in lines
    own = by_kind(evaluation_of_edges)
    (row,) = [line for line in lines if line.startswith("zero")]
    for kind in ("circuit", "complement", *EDGE_KINDS):
        assert f"{own['zero', kind, 7].faithfulness:.2f}" in row
    assert [line for line in lines if line.startswith("by hand")]
    assert len([line for line in lines if not line.startswith("Warning: ")]) < 16
    assert sum(line.startswith("Warning: ") for line in lines) == len(evaluation_of_edges.warnings)
    assert all(len(line) < 100 for line in lines if not line.startswith("Warning: "))


def test_ranges_are_what_faithfulness_is_a_share_of(model, task, evaluation):
    for ablation in ABLATIONS:
        masks = np.stack([np.ones((L, H)), np.zeros((L, H))])
        full, empty = metric(model, trial(model, task.held_out, ablation), masks)
        wanted = stats.ttest_1samp(full - empty, 0).confidence_interval(0.95)
        found = evaluation.ranges[ablation]
        np.testing.assert_allclose([found.low, found.high], wanted, rtol=1e-3, atol=1e-3)
        assert evaluation.means_something(ablation) == (wanted.low > 0)
        noisy = any(ABLATED[ablation] in text for text in evaluation.warnings)
        assert noisy == (wanted.low <= 0)


def test_random_circuits_are_averaged(model, task, evaluation):
    masks = random_masks(jax.random.key(1), (L, H), [3, G], 2)[:, 0]
    extremes = np.stack([np.ones((L, H)), np.zeros((L, H)), *masks])
    full, empty, *values = metric(model, trial(model, task.held_out, "zero"), extremes).mean(axis=1)
    share = (np.array(values) - empty) / (full - empty)
    found = by_kind(evaluation)["zero", "random", 3]
    np.testing.assert_allclose(found.metric, np.mean(values), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.faithfulness, share.mean(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.spread, share.std(), rtol=1e-3, atol=1e-4)
    assert found.spread > 0.01


def test_metrics_of_the_whole_model(model, task, evaluation):
    pairs = task.held_out
    for prompts, found in (
        (pairs.positives, evaluation.positive_metric),
        (pairs.negatives, evaluation.negative_metric),
    ):
        logits = np.asarray(model.logits(prompts))
        rows = range(len(pairs))
        right, wrong = (
            [logits[i, ids[i][0]] for i in rows] for ids in (pairs.answers, pairs.foils)
        )
        np.testing.assert_allclose(found, np.mean(np.subtract(right, wrong)), rtol=1e-3, atol=1e-4)


def test_truths_of_this_model_only(task, evaluation, model):
    assert set(evaluation.truths) == {"by hand"}
    circuit = SCORES.circuit(size=3)
    truth = np.zeros((L, H), bool)
    truth[0, 1] = truth[2, 3] = True
    assert evaluation.truths["by hand"] == against_truth(circuit.head_scores, circuit.heads, truth)
    as_folder = dataclasses.replace(model, name="models/gpt2")
    options = EvaluationOptions(ablations=(), curve=())
    assert set(evaluate(as_folder, task, circuit, options=options).truths) == {"other model"}


def test_an_evaluation_survives_its_json(evaluation):
    assert evaluation_from_json(plain(dataclasses.asdict(evaluation))) == evaluation
    unknown = dataclasses.replace(evaluation.judgements[0], faithfulness=float("nan"))
    record = plain(dataclasses.asdict(dataclasses.replace(evaluation, judgements=(unknown,))))
    assert np.isnan(evaluation_from_json(record).judgements[0].faithfulness)


@pytest.mark.parametrize("masks_at_once", [2, 3])
def test_masks_that_share_a_pass_change_nothing(model, task, masks_at_once):
    prepared = trial(model, task.held_out, "resample")
    masks = random_masks(jax.random.key(0), (L, H), [2, 5], 2).reshape(4, L, H)
    np.testing.assert_allclose(
        metric(model, prepared, masks, masks_at_once),
        metric(model, prepared, masks),
        rtol=1e-3,
        atol=1e-4,
    )


def test_resampling_from_the_same_prompts_changes_nothing(model, task):
    pairs = dataclasses.replace(task.held_out, negatives=task.held_out.positives)
    prepared = trial(model, pairs, "resample")
    masks = np.stack([np.ones((L, H)), np.zeros((L, H)), SCORES.circuit(size=3).heads])
    found = metric(model, prepared, masks)
    plain_metric = metric_values(model.logits(pairs.positives), targets(pairs), "logit_diff")
    np.testing.assert_allclose(found, np.tile(plain_metric, (3, 1)), rtol=1e-3, atol=1e-3)


LENGTHS = PromptPairs(
    positives=("when Ann and Bob went out", "Ann and Bob"),
    negatives=("Cid and Dee out", "when Eve and Fay went to Gus"),
    answers=((9,), (10,)),
    foils=((10,), (11,)),
)


# Columns of the aligned prompts -> tokens of the negative, or of the positive standing alone:
#     when Ann and Bob went out          Ann   .   and  .   .   .  Bob
#      .   Cid and  .  Dee  out          when  Eve  and Fay went to Gus
PARTNERS = {1: 0, 2: 1, 4: 2, 5: 3}, {0: 0, 2: 2, 6: 6}
ALONE = {0: 0, 3: 3}, {}


def heads_of(model, prompts):
    """z [L B T H K], every prompt from its first column on."""
    capture = jax.jit(interpose.capture, static_argnums=0)
    return np.asarray(capture(model.config, model.params, model.tokenize(prompts, 8))[1])


def filled(model):
    """What stands for the first positive prompt's heads, column by column."""
    positive, negative = heads_of(model, LENGTHS.positives), heads_of(model, LENGTHS.negatives)
    rows = {c: negative[:, 0, t] for c, t in PARTNERS[0].items()}
    return np.stack(
        [(rows | {c: positive[:, 0, t] for c, t in ALONE[0].items()})[c] for c in range(6)]
    )


def test_resampling_is_from_partners_and_leaves_tokens_without_one_alone(model):
    prepared = trial(model, LENGTHS, "resample")
    assert np.flatnonzero(prepared.batch.mask[0]).tolist() == list(range(6))
    assert np.flatnonzero(prepared.batch.mask[1]).tolist() == list(PARTNERS[1])
    found = np.asarray(prepared.replacement)
    np.testing.assert_allclose(found[:, 0, :6].swapaxes(0, 1), filled(model), atol=1e-5)
    negative = heads_of(model, LENGTHS.negatives)
    for column, token in PARTNERS[1].items():
        np.testing.assert_allclose(found[:, 1, column], negative[:, 1, token], atol=1e-5)


def test_mean_is_over_what_resampling_takes(model):
    found = np.asarray(trial(model, LENGTHS, "mean").replacement)
    assert found.shape[:2] == (L, 1)
    second = heads_of(model, LENGTHS.negatives)[:, 1].swapaxes(0, 1)
    found = found[:, 0].swapaxes(0, 1)
    np.testing.assert_allclose(found[:6], (filled(model) + second[:6]) / 2, atol=1e-5)
    np.testing.assert_allclose(found[6], second[6], atol=1e-5)
    assert not found[7:].any()


def test_zero_is_zero(model):
    assert not np.asarray(trial(model, LENGTHS, "zero").replacement).any()


def test_faithfulness():
    np.testing.assert_allclose(
        faithfulness(np.array([3.0, 1, 2, 5, 0]), 3.0, 1.0), [1, 0, 0.5, 2, -0.5]
    )
    np.testing.assert_allclose(faithfulness(np.array([-1.0]), -2.0, 1.0), [2 / 3])
    assert np.isnan(faithfulness(np.array([1.0, 2.0]), 1.0, 1.0)).all()
    assert np.isnan(faithfulness(np.array([1.0, 2.0]), 9.0, 9.000001)).all()  # rounding


def test_random_masks_have_their_sizes_and_differ():
    sizes = [0, 1, 5, G]
    masks = random_masks(jax.random.key(0), (L, H), sizes, 20)
    assert masks.shape == (20, 4, L, H)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks.sum((2, 3)), np.tile(sizes, (20, 1)))
    assert len({mask.tobytes() for mask in masks[:, 2]}) > 15
    assert masks[:, 2].any(0).all()  # no head is never drawn
    np.testing.assert_array_equal(masks, random_masks(jax.random.key(0), (L, H), sizes, 20))


def test_against_truth_by_hand():
    """Ranking, best first: true, false, true, false; the circuit holds the first three."""
    scores = np.array([[4.0, 3.0], [2.0, 1.0]])
    truth = np.array([[1, 0], [1, 0]])
    found = against_truth(scores, scores > 1.5, truth)
    assert found.roc_auc == pytest.approx(3 / 4)  # of four pairs, three are in order
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == 1
    assert found.f1 == pytest.approx(4 / 5)


def test_against_truth_at_the_ends():
    truth = np.array([[True, False], [True, False]])
    perfect = against_truth(truth * 1.0, truth, truth)
    assert dataclasses.astuple(perfect) == (1, 1, 1, 1, 1)
    wrong = against_truth(-1.0 * truth, ~truth, truth)
    assert (wrong.roc_auc, wrong.precision, wrong.recall, wrong.f1) == (0, 0, 0, 0)
    tied = against_truth(np.zeros((2, 2)), np.zeros((2, 2), bool), truth)
    assert (tied.roc_auc, tied.average_precision) == (0.5, 0.5)
    assert (tied.precision, tied.recall, tied.f1) == (0, 0, 0)


def test_one_program_judges_by_all_ablations(model, monkeypatch):
    """Of heads, and of edges: compiling them takes longer than a small evaluation does.

    And the whole model is run once for what all of them are compared with.
    """
    plain, calls = interpose.last_logits, []
    monkeypatch.setattr(interpose, "last_logits", lambda *a: calls.append(a) or plain(*a))
    task = tiny.task(n=1, n_held_out=6)  # a shape of its own
    programs = masked_passes._metrics_under, masked_passes._edge_metrics_under
    before = [program._cache_size() for program in programs]
    options = EvaluationOptions(curve=(), n_random=1)
    measured = performance.measure(model, task)
    calls.clear()
    circuit = WITH_EDGES.circuit(size=6)
    found = evaluate(model, task, circuit, options=options, measured=measured)
    assert len(calls) == 1
    assert {j.ablation for j in found.judgements} == set(ABLATIONS)
    assert [p._cache_size() - n for p, n in zip(programs, before, strict=True)] == [1, 1]
