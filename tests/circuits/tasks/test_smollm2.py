"""The tasks with the tokenizer of the default model, which splits digits."""

import pytest

from circuits_jax.tasks import make_task
from circuits_jax.tasks.tokens import token_ids


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ioi", {}),
        ("greater_than", {}),
        ("greater_than", {"negatives": "year"}),
        ("greater_than", {"negatives": "random"}),
        ("greater_than", {"negatives": "unrelated"}),
        ("greater_than", {"negatives": "copy"}),
        ("docstring", {}),
        ("induction", {}),
    ],
)
def test_built_in_tasks(smollm2, name, options):
    task = make_task(name, smollm2, n=10, n_held_out=40, **options)
    for pairs in (task.learn, task.held_out):
        for positive, negative, (answer, *_) in zip(
            pairs.positives, pairs.negatives, pairs.answers, strict=True
        ):
            ids = token_ids(smollm2, positive)
            assert len(ids) == len(token_ids(smollm2, negative))
            assert token_ids(smollm2, positive + smollm2.decode([answer])) == (*ids, answer)


def test_names_enough_for_balanced_prompts(smollm2):
    """At least a hundred of the first names are one token, so a hundred prompts repeat no IO."""
    task = make_task("ioi", smollm2, n=5, n_held_out=95)
    assert len(set(task.learn.answers + task.held_out.answers)) == 100
