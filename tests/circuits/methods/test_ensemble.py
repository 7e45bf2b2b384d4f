"""Several methods as one: what ranks, means and minima are, by hand and by way of `discover`."""

import jax.numpy as jnp
import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax import config
from circuits_jax.circuits.circuit import above_noise
from circuits_jax.circuits.graph import graph_of
from circuits_jax.circuits.graph_circuit import graph_circuit
from circuits_jax.config import ENSEMBLES
from circuits_jax.evaluation import cost
from circuits_jax.methods import configured, method_options
from circuits_jax.methods.ensemble import combined
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

NOTHING = np.zeros((4, 4), np.float32)


def scores(*values, edges=NOTHING, **details):
    return cj.Scores(np.array(values, np.float32).reshape(2, 2), edges, details)


A, B = scores(8, 2, 4, 0), scores(1, 1, 0, 3e-5)  # the last of B is noise


@pytest.mark.parametrize(
    ("combine", "wanted"),
    [
        ("ranks", [(1 + 3.5 / 4) / 2, (0.5 + 3.5 / 4) / 2, 0.75 / 2, 0]),
        ("mean", [1, (0.25 + 1) / 2, 0.25, 0]),
        ("minimum", [1, 0.25, 0, 0]),
    ],
)
def test_by_hand(combine, wanted):
    found = combined([A, B], combine)
    np.testing.assert_allclose(found.head_scores.ravel(), wanted, rtol=1e-6)
    assert combined([B, A], combine).head_scores.tolist() == found.head_scores.tolist()


def test_agreement_is_how_near_the_ranks_are():
    found = combined([A, B]).details["agreement"].ravel()
    np.testing.assert_allclose(found, [1 - 0.125, 1 - 0.375, 1 - 0.75, 1])


def test_ranks_do_not_see_the_unit_of_a_member():
    rising = scores(*np.expm1([8, 2, 4, 0]))
    first, second = combined([A, B]), combined([rising, B])
    np.testing.assert_array_equal(first.head_scores, second.head_scores)
    alone = combined([A]).head_scores
    assert np.argsort(alone.ravel()).tolist() == np.argsort(A.head_scores.ravel()).tolist()


def test_the_least_of_many_heads_counts_and_what_says_nothing_does_not():
    """Where its rank is less than what float32 leaves of nothing."""
    n = 120
    many = np.arange(n * n, dtype=np.float32).reshape(n, n) + 1e3
    many[0, 0] = 0
    found = combined([cj.Scores(many, NOTHING), cj.Scores(many, NOTHING)])
    counted = above_noise(found.head_scores, float(found.details["noise"]))
    assert not counted[0, 0]
    assert counted.sum() == n * n - 1


def test_a_softmax_that_says_nothing_is_left_out():
    flat = scores(0.25, 0.25, 0.25, 0.25, noise=np.float32(0.25))
    np.testing.assert_allclose(combined([A, flat]).head_scores, combined([A]).head_scores / 2)


def test_signs_are_those_of_members_that_have_them():
    signed = scores(1, 1, 2, 3, effects=jnp.array([[1.0, -1.0], [2.0, -3.0]]))
    found = combined([A, signed])
    assert np.sign(found.details["effects"]).ravel().tolist() == [1, -1, 1, -1]
    np.testing.assert_array_equal(np.abs(found.details["effects"]), found.head_scores)
    assert "effects" not in combined([A, B]).details


@pytest.fixture(scope="module")
def alone():
    model, task = tiny.model(), tiny.task()
    names = ("sae_codes", "relp", "attribution")
    return {name: cj.discover(model, task, name) for name in names}


def test_edges_are_of_members_that_score_them(alone):
    """Products of heads say nothing of edges, where another member does."""
    codes, relp, plain = alone.values()
    found, graph = combined([codes, plain]), graph_of(tiny.CONFIG)
    theirs, ours = (one.details["graph_effects"] for one in (codes, found))
    order = np.argsort(np.abs(theirs), axis=None, kind="stable")
    assert (np.diff(np.abs(ours).ravel()[order]) >= 0).all()
    np.testing.assert_array_equal(np.sign(ours), np.where(ours, np.sign(theirs), 0))
    sizes = [graph_circuit(one, graph, 40).size for one in (found, codes)]
    assert sizes[0] == sizes[1] > 0
    assert (combined([codes, relp]).edge_scores != found.edge_scores).any()
    only = combined([plain, plain])
    assert np.argmax(only.edge_scores) == np.argmax(plain.edge_scores)


@pytest.mark.parametrize("combine", ["ranks", "mean", "minimum"])
def test_discover_combines_what_each_finds_alone(alone, combine):
    method, options = "sae_codes+attribution", {"attribution": {"prompts_at_once": 32}}
    found = cj.discover(tiny.model(), tiny.task(), method, combine=combine, **options)
    wanted = combined([alone["sae_codes"], alone["attribution"]], combine)
    np.testing.assert_array_equal(found.head_scores, wanted.head_scores)


def test_passes_are_those_of_all_members():
    model, task = tiny.model(), tiny.task()
    names = ("mean_difference", "attribution")
    each = [cost.passes(name, method_options(name), model, task) for name in names]
    whole = cost.passes("+".join(names), method_options("+".join(names)), model, task)
    assert whole == pytest.approx(tuple(np.sum(each, axis=0)))


def test_costs_add_up_and_memory_does_not():
    one, other = cost.Cost(1.0, 2.0, 3.0, 4.0, 5.0), cost.Cost(10.0, np.nan, 30.0, 40.0, 4.0)
    assert str(cost.summed([one, other])) == str(cost.Cost(11.0, np.nan, 33.0, 44.0, 5.0))


def test_a_config_sets_members_by_their_sections():
    chosen = config.comparison("ioi").unlock()
    chosen.attribution_ig.steps, chosen.ensemble.combine = 3, "minimum"
    assert set(ENSEMBLES) < set(chosen.methods)
    found = configured("sae_codes+attribution_ig", chosen)
    assert found.combine == "minimum"
    assert dict(found.members)["attribution_ig"].steps == 3


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("sae_codes+relq", {}, "unknown method 'relq'; did you mean 'relp'"),
        ("relp+relp", {}, "'relp\\+relp' has relp twice"),
        ("relp+", {}, "unknown method ''"),
        ("eap+relp", {"steps": 5}, "unknown option of method eap\\+relp 'steps'"),
        ("eap+relp", {"eap": 5}, "eap is a int; allowed is a Mapping"),
        ("eap+eap_ig", {"eap_ig": {"steps": 0}}, "steps is 0"),
    ],
)
def test_what_cannot_be_combined(method, options, sentence):
    with pytest.raises(InputError, match=sentence):
        method_options(method, **options)
