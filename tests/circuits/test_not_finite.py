"""What is not finite is never scored, ranked or judged: one sentence says where it began."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import circuits_jax as cj
from circuits_jax import interpose, methods
from circuits_jax.capture.ablation import trial
from circuits_jax.evaluation import masked_passes
from circuits_jax.methods import METHODS
from circuits_jax.methods.acdc import acdc
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import metric_values, targets
from tests.circuits import tiny

L, H, G = 3, 4, 12
CONFIG = dataclasses.replace(tiny.CONFIG, tied=False)


@pytest.fixture(scope="module")
def task():
    return tiny.task(n=2, n_held_out=2)


def broken(path, place, value):
    """The tiny model with one number of one parameter changed."""
    model = tiny.model(CONFIG)
    flat = traverse_util.flatten_dict(model.params, sep="/")
    flat[path] = flat[path].at[place].set(value)
    return dataclasses.replace(model, params=traverse_util.unflatten_dict(flat, sep="/"))


@pytest.fixture(scope="module")
def overflowing():
    """Every weight is finite, what head 2 of layer 1 says is not."""
    return broken("layers/attention/v", (1, slice(None), 1), 3e38)


@pytest.mark.parametrize("method", ["sae_codes", "mean_difference"])
def test_methods_say_where_it_began(overflowing, task, method):
    options = METHODS[method].options
    for run in (
        lambda: cj.discover(overflowing, task, method),
        lambda: METHODS[method].run(overflowing, task, jax.random.key(0), options),  # unmeasured
    ):
        with pytest.raises(InputError) as error:
            run()
        text = str(error.value)
        assert "the output of layer 1 head 2 is not finite on prompt 0 ('when " in text
        assert "\n" not in text


@pytest.mark.parametrize("method", METHODS)
def test_no_method_gives_a_score_that_is_not_finite(overflowing, task, method, monkeypatch):
    """Whatever a method computes; where all that the model says is finite, its first head."""
    heads = np.zeros((L, H))
    heads[2, 1:3] = np.nan
    name = METHODS[method].function.__name__
    guarded = dataclasses.replace(
        METHODS[method], function=lambda *_: cj.Scores(heads, np.zeros((G, G)))
    )
    guarded.function.__name__ = name
    monkeypatch.setitem(methods.METHODS, method, guarded)
    with pytest.raises(InputError, match=f"{name}: the head score of layer 2 head 1 is not finite"):
        cj.discover(tiny.model(CONFIG), task, method)
    with pytest.raises(InputError, match="the output of layer 1 head 2 is not finite on prompt 0"):
        cj.discover(overflowing, task, method)


def test_logits_and_evaluation_say_where_it_began(overflowing, task):
    sentence = r"layer 1 head 2 is not finite on prompt 0 \('when "
    with pytest.raises(InputError, match=sentence):
        overflowing.logits(task.learn.positives)
    scores = cj.Scores(np.ones((L, H)), np.zeros((G, G)))
    with pytest.raises(InputError, match=sentence):
        cj.evaluate(overflowing, task, scores.circuit(size=3))


def test_the_part_and_the_prompt_are_named():
    """By a token that the second prompt alone has, and by parts that are no heads."""
    prompts = ["when Ann and Bob went out", "when Ann and Cid went out"]
    word = tiny.WORDS.index("Cid")
    for path, place, part in (
        ("embedding", (word, 3), "the embedding is not finite on prompt 1 ('when Ann and Cid"),
        ("layers/mlp/down", (2, slice(None), 5), "the output of layer 2's MLP is not finite"),
        ("layers/attention/o_bias", (0, 1), "the output of layer 0's attention is not finite"),
    ):
        value = jnp.inf if path != "layers/mlp/down" else 3e38
        with pytest.raises(InputError) as error:
            broken(path, place, value).logits(prompts)
        assert part in str(error.value)
    assert tiny.model(CONFIG).first_not_finite(prompts) is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff"])
def test_a_logit_alone(task, metric, wrong):
    """Of a word that no metric looks at: the metric says so all the same, of that prompt."""
    logits = np.zeros((2, len(tiny.WORDS)), np.float32)
    logits[1, 0] = wrong
    values = metric_values(jnp.asarray(logits), targets(task.learn), metric)
    np.testing.assert_array_equal(np.isnan(values), [False, True])
    with pytest.raises(InputError, match="a logit is not finite on prompt 0"):
        broken("unembedding", (3, 0), wrong).logits(task.learn.positives)


def test_huge_weights_at_random_places_are_harmless_or_told(task):
    """Against every number that a pass computes, kept as it is."""
    model, rng = tiny.model(CONFIG), np.random.default_rng(2)
    flat = traverse_util.flatten_dict(model.params, sep="/")
    batch = model.tokenize(task.learn.positives)
    real = batch.mask[..., None]

    @jax.jit
    def computed(params):
        stream, layers = interpose.record(model.config, params, batch, lambda kept: kept.stream)
        logits = interpose.last_logits(model.config, params, batch)
        return jnp.where(real, stream, 0), jnp.where(real[None], layers, 0), logits

    told = 0
    for _ in range(50):
        path = sorted(flat)[rng.integers(len(flat))]
        place = tuple(int(rng.integers(n)) for n in flat[path].shape)
        changed = broken(path, place, (1e22, -1e30, 3e38)[rng.integers(3)])
        finite = all(np.isfinite(kept).all() for kept in computed(changed.params))
        if finite:
            changed.logits(task.learn.positives)
        else:
            told += 1
            with pytest.raises(InputError, match="is not finite on prompt"):
                changed.logits(task.learn.positives)
    assert 15 < told < 50


def test_squares_that_overflow_are_no_zero():
    """A stream of 1e25 in float32: 1 / its root mean square is not 0."""
    model = broken("embedding", (slice(None), 0), 1e25)
    with pytest.raises(InputError, match="layer 0 head 0 is not finite"):
        model.logits(["when Ann went out"])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_not_ranked(wrong):
    heads, edges = np.ones((L, H), np.float32), np.zeros((G, G), np.float32)
    bad_heads, bad_edges = heads.copy(), edges.copy()
    bad_heads[1, 2] = bad_edges[2, 9] = wrong
    for rule in ({"size": 3}, {"threshold": 0.5}, {}):
        with pytest.raises(InputError, match="head score of layer 1 head 2 is not finite"):
            cj.Scores(bad_heads, edges).circuit(**rule)
        sentence = "edge score of layer 0 head 2 to layer 2 head 1 is not finite"
        with pytest.raises(InputError, match=sentence):
            cj.Scores(heads, bad_edges).circuit(**rule)


def test_a_training_that_breaks_is_told(task):
    with pytest.raises(InputError, match=r"loss of autoencoder \d+ of 12 .* is not finite at step"):
        cj.discover(tiny.model(CONFIG), task, "sae_codes", steps=3, learning_rate=1e38)


def test_divergences_that_are_not_finite_do_not_count_as_untested(overflowing, task):
    options = dataclasses.replace(METHODS["acdc"].options, thresholds=(0.1,))
    found = acdc(overflowing, task, jax.random.key(0), options)
    assert np.isnan(found.head_scores).any()


def test_replacements_that_break_a_pass_are_told(task):
    model = tiny.model(CONFIG)
    prepared = trial(model, task.held_out, "zero")
    prepared = prepared.replace(replacement=prepared.replacement + jnp.inf)
    keep = np.ones((2, L, H), bool)
    keep[1, 0] = False
    with pytest.raises(InputError, match=r"metric of held-out prompt 0 is not finite .*choice"):
        masked_passes.masked_metrics(model, prepared, keep, "logit_diff")
