"""Planted models do their task, by the planted heads alone."""

import dataclasses

import jax
import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.circuits.graph import graph_of
from circuits_jax.evaluation.faithfulness import against_truth, faithfulness
from circuits_jax.evaluation.graph_faithfulness import graph_metrics, graph_trial
from circuits_jax.lm.made.planted import KINDS, Plant, V, places
from circuits_jax.runs.errors import InputError


def _mask(model):
    mask = np.zeros(model.config.heads, bool)
    for head in model.tokenizer.truth.heads:
        mask[head] = True
    return mask


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    model = cj.load_model(f"planted:6x12:{request.param}:3")
    return model, cj.make_task("planted", model.tokenizer, n=5, n_held_out=40)


def test_answer_beats_every_other_token_on_all_prompts(made):
    model, task = made
    best = np.argmax(model.logits(task.held_out.positives), axis=-1)
    assert [(i,) for i in best.tolist()] == list(task.held_out.answers)
    best = np.argmax(model.logits(task.held_out.negatives), axis=-1)
    assert all(
        (i,) != answer for i, answer in zip(best.tolist(), task.held_out.answers, strict=True)
    )


def test_exact_patching_finds_the_circuit_and_nothing_else(made):
    model, task = made
    effects = np.asarray(cj.discover(model, task, "exact_patching").details["effects"])
    mask = _mask(model)
    assert np.all(effects[mask] > 5)
    np.testing.assert_allclose(effects[~mask], 0, atol=1e-4)


def test_decoys_write_as_much_as_the_circuit_and_differ_within_pairs(made):
    model, task = made
    mask = _mask(model)
    both = [
        np.asarray(cj.head_outputs(model, prompts, "all"))
        for prompts in (task.held_out.positives, task.held_out.negatives)
    ]
    norm = np.sqrt(np.mean(np.sum(both[0] ** 2, axis=-1), axis=(0, 1)))
    assert np.all((norm[~mask] > 0.6) & (norm[~mask] < 1.6))
    assert np.all((norm[mask] > 0.5) & (norm[mask] < 1.1))
    moved = np.linalg.norm(both[0] - both[1], axis=-1).max(axis=1).mean(axis=0)
    assert np.all(moved[~mask] > 0.02)


@pytest.mark.parametrize("made", ["experts"], indirect=True)
def test_one_expert_does_the_step_and_the_others_are_decoys(made):
    """Without what it writes nothing is answered; what the others write is no matter."""
    model, task = made
    mlp = model.params["layers"]["mlp"]
    down = np.asarray(mlp["down"]).reshape(model.config.n_layers, model.config.n_experts, V, -1)
    plain = np.asarray(model.logits(task.held_out.positives))
    right = [answer for (answer,) in task.held_out.answers]

    def without(layer, expert):
        less = down.copy()
        less[layer, expert] = 0
        own = model.params["layers"] | {"mlp": mlp | {"down": less.reshape(mlp["down"].shape)}}
        cut = dataclasses.replace(model, params=model.params | {"layers": own})
        return cut.logits(task.held_out.positives)

    (step, _) = places(Plant(6, 12, "experts", 3))["before"]
    moved = [np.abs(without(step, x) - plain).max() for x in range(model.config.n_experts)]
    (expert,) = np.flatnonzero(np.array(moved) > 1)
    cut = np.asarray(without(step, expert))
    assert np.mean(np.argmax(cut, axis=-1) == np.array(right)) < 0.3
    assert np.abs(without(5, 0) - plain).max() < 1e-3
    assert sum(x < 1e-3 for x in moved) == model.config.n_experts - 1


def test_its_edges_answer_alone_and_none_is_to_spare(made):
    """The graph's: all others cut the answer stays, and one of them cut it is the negative's."""
    model, task = made
    path = graph_of(model.config).mask(model.tokenizer.truth.graph_edges)
    keep = np.ones((2 + path.sum(), *path.shape), bool)
    keep[0], keep[1] = False, path
    keep[2 + np.arange(path.sum()), *np.nonzero(path)] = False
    prepared = graph_trial(model, task.learn, "resample", task.metric)
    whole = graph_metrics(model, prepared, np.ones_like(keep[:1]), task.metric).mean()
    nothing, *cut = graph_metrics(model, prepared, keep, task.metric).mean(axis=1)
    shares = faithfulness(np.array(cut), float(whole), float(nothing))
    np.testing.assert_allclose(shares, [1] + [0] * path.sum(), atol=0.02)


@pytest.mark.parametrize("made", ["induction", "mlp", "experts"], indirect=True)
def test_codes_find_the_circuit_among_decoys(made):
    """Its heads; and of the graph its edges and its nodes, decoy MLPs and all."""
    model, task = made
    found, graph, truth = cj.discover(model, task), graph_of(model.config), model.tokenizer.truth
    scores = np.asarray(found.head_scores)
    mask = _mask(model)
    assert against_truth(scores, mask, mask).roc_auc > 0.95
    true = graph.mask(truth.graph_edges)
    effects = np.abs(found.details["graph_effects"])
    assert effects[true].min() > 10 * effects[graph.is_edge & ~true].max()
    others = np.append(0, graph.mlp_writers)
    nodes, real = found.details["node_scores"][others], true.any(axis=1)[others]
    assert nodes[real].min() > nodes[~real].max(initial=0)


def test_places_are_drawn_by_the_seed():
    drawn = [places(Plant(12, 12, seed=seed)) for seed in range(30)]
    assert all(heads["before"][0] < heads["induction"][0] for heads in drawn)
    assert len({tuple(heads.values()) for heads in drawn}) == 30


def test_a_model_of_a_name_is_always_the_same(made):
    model, _ = made
    again = cj.load_model(model.name)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, model.params))
    other = cj.load_model(f"{model.name}1")
    assert not np.array_equal(other.params["embedding"], model.params["embedding"])


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("planted:4", "float32", "planted:LAYERSxHEADS"),
        ("planted:4x4:sorting", "float32", "allowed are induction"),
        ("planted:1x9", "float32", "at least 2x1"),
        ("planted:0x9:previous", "float32", "at least 1x1"),
        ("planted:4x4", "bfloat16", "float32 alone"),
    ],
)
def test_refuses(name, dtype, message):
    with pytest.raises(InputError, match=message):
        cj.load_model(name, dtype)
