"""The embedded default model agrees with Hugging Face's in PyTorch, and does its task."""

from pathlib import Path

import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.tasks import metric_values, targets

GOLDEN = Path(__file__).parents[1] / "goldens" / "circuits" / "smollm2.npz"
TOLERANCE = 1e-4  # of the largest value


@pytest.fixture(scope="module")
def model():
    """Where its package is absent these tests fail, with how to install it, and are not skipped."""
    return cj.load_model("smollm2")


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def relative_error(found, wanted):
    return np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))


def test_logits_and_tokens_agree_with_hugging_face(model, golden):
    prompts = golden["prompts"].tolist()
    logits = np.asarray(model.logits(prompts))[:, golden["vocabulary"]]
    for number, prompt in enumerate(prompts):
        assert model.tokenizer(prompt).input_ids == golden[f"ids_{number}"].tolist()
        assert relative_error(logits[number], golden[f"logits_{number}"]) < TOLERANCE


@pytest.mark.parametrize("position", ["last", "mean"])
def test_head_outputs_agree_with_hugging_face(model, golden, position):
    outputs = np.asarray(cj.head_outputs(model, golden["prompts"].tolist(), position))
    for number, found in enumerate(outputs @ golden["directions"]):
        assert relative_error(found, golden[f"{position}_{number}"]) < TOLERANCE


def test_mary(model):
    logits = model.logits(["When Mary and John went to the store, John gave a drink to"])
    assert model.tokenizer.decode([int(logits[0].argmax())]) == " Mary"


def test_ioi_prompts_of_the_tasks_own_making_are_answered(model):
    pairs = cj.make_task("ioi", model.tokenizer, n=1, n_held_out=12, seed=3).held_out
    positive, negative = (
        np.mean(metric_values(model.logits(prompts), targets(pairs), "logit_diff"))
        for prompts in (pairs.positives, pairs.negatives)
    )
    assert positive > 3.5
    assert abs(negative) < 1.5
