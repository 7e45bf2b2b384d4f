"""Pairs whose prompts differ in length: no method sees the shift, in either direction."""

import dataclasses

import jax
import numpy as np
import pytest

from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.methods import METHODS, method_options
from tests.circuits import tiny

L, H = 3, 4
# A head of the first layer sees its own token alone, so it says the same wherever that stands.
BLIND = dataclasses.replace(tiny.CONFIG, windows=(1, NO_WINDOW, NO_WINDOW))
SHORT = "when Ann and Bob went out then Bob gave it to", "then Cid gave it to"
LONG = "when Ann and Bob and Cid went out then it Bob gave it to", "then Cid and Fay gave it to"
UNPAIRED = ("random", "sae_codes_published", "subnetwork_probing")
OPTIONS = {  # of others than by default
    "hisp": {"replacement": "resample"},
    "acdc": {"thresholds": (1e-4,)},
    "attribution_ig": {"steps": 2},
    "eap_ig": {"steps": 2},
}


@pytest.fixture(scope="module")
def model():
    return tiny.model(BLIND)


def pairs(positives, negatives):
    rows = zip(positives, negatives, ("Ann", "Dee"), ("Bob", "Eve"), strict=True)
    return tiny.prompt_pairs(list(rows))


@pytest.mark.parametrize("longer", ["negative", "positive"])
@pytest.mark.parametrize("name", [name for name in METHODS if name not in UNPAIRED])
def test_a_head_that_says_the_same_at_every_shared_token_has_no_part(model, name, longer):
    """The longer prompt is the shorter one with more words in it, in one place or in two."""
    both = pairs(SHORT, LONG) if longer == "negative" else pairs(LONG, SHORT)
    task = dataclasses.replace(tiny.task(), learn=both)
    options = method_options(name, **OPTIONS.get(name, {}))
    scores = np.asarray(METHODS[name].run(model, task, jax.random.key(0), options).head_scores)
    assert scores[1:].max() > 0
    np.testing.assert_allclose(scores[0], 0, atol=1e-4 * scores.max())
