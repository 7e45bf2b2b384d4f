"""Prompts share a pass as far as their attention patterns fit the memory that is set aside."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture import ablation, head_outputs
from circuits_jax.capture.forked import fork
from circuits_jax.circuits.graph import graph_of
from circuits_jax.decoder.batch import stacked
from circuits_jax.evaluation import masked_passes
from circuits_jax.lm import language_model
from circuits_jax.runs import mesh
from tests.accelerators import circuits_programs
from tests.accelerators.test_lowering import inside
from tests.circuits import tiny

ACDC, CDT = (sys.modules[f"circuits_jax.methods.{name}"] for name in ("acdc", "cdt"))


@pytest.mark.parametrize("each", [1, mesh.HELD // 3, mesh.HELD, 2 * mesh.HELD])
def test_as_many_are_worked_on_as_fit_and_never_none(each):
    assert mesh.fitting(8, each) == {1: 8, mesh.HELD // 3: 3}.get(each, 1)


@pytest.mark.parametrize(("n", "most", "size"), [(6, 6, 6), (6, 5, 3), (7, 6, 1), (4, 9, 4)])
def test_parts_are_of_one_size(n, most, size):
    assert mesh.even_part(n, most) == size


@pytest.mark.parametrize(
    "name",
    ["circuits judged", "attribution", "edge attribution", "exact patching"],
)
def test_a_program_of_long_prompts_needs_a_fraction_of_the_memory(name, monkeypatch):
    program = circuits_programs.programs(pairs=4, tokens=48)[name]

    def temporaries():
        jax.clear_caches()
        compiled = jax.jit(program.function).lower(*program.arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    together = temporaries()
    monkeypatch.setattr(mesh, "HELD", 1)
    assert temporaries() < 0.6 * together


def test_long_pairs_are_read_in_parts_and_alike(monkeypatch):
    model, pairs = tiny.model(), tiny.task().learn
    whole = np.asarray(head_outputs.read_outputs(model, pairs))
    both = head_outputs.forked(model, pairs)
    held = model.config.n_layers * model.config.pattern_bytes(both.length)
    devices = mesh.devices.mesh().shape[mesh.DATA]
    for fit in (1, 2):
        monkeypatch.setattr(mesh, "HELD", fit * held)
        parts = list(head_outputs._in_parts(model, both, 32))
        assert len(parts) == -(-len(pairs) // (fit * devices))
    np.testing.assert_allclose(head_outputs.read_outputs(model, pairs), whole, atol=1e-6)


def test_what_is_read_of_a_pattern_is_read_of_all_prompts(monkeypatch):
    """A row of a pair has more columns than a prompt: here twice as many."""
    model, pairs = tiny.model(), tiny.task(n=4).learn
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    rows, length = stacked(sides), sides[0].tokens.shape[1]
    of_two = 2 * model.config.n_layers * model.config.pattern_bytes(length)
    monkeypatch.setattr(mesh, "HELD", of_two)
    part, *_ = head_outputs._in_parts(model, fork(rows, length), 32)
    assert len(part.tokens) == mesh.devices.mesh().shape[mesh.DATA]


@pytest.fixture(scope="module")
def prepared():
    return ablation.trial(tiny.model(), tiny.task(n=4).learn, "resample", "logit_diff")


def passes(prepared):
    """Programs of passes of all prompts, one of them for two thresholds on each device."""
    (config, params), batch = (tiny.CONFIG, tiny.model().params), prepared.batch
    graph = graph_of(config)
    keep = jnp.asarray(np.random.default_rng(0).random(graph.is_edge.shape) < 0.5, jnp.float32)
    zeros = jnp.zeros((len(graph.writers), 1, 1, config.d_model))
    given = jnp.asarray([0.001, 0.01, 0.1, 1.0]), "logit_diff", "kl", "product", 2
    return {
        "whole": lambda: interpose.last_logits.__wrapped__(config, params, batch),
        "graph": lambda: interpose.replace_graph(config, params, batch, keep, zeros),
        "acdc": lambda: ACDC._circuits.__wrapped__(config, params, prepared, *given),
    }


@pytest.mark.parametrize("name", ["whole", "graph", "acdc"])
def test_long_prompts_hold_fewer_patterns_and_give_the_same(name, prepared, monkeypatch):
    run, one = passes(prepared)[name], tiny.CONFIG.pattern_bytes(prepared.batch.tokens.shape[1])
    whole = jax.jit(lambda: run())()
    monkeypatch.setattr(mesh, "HELD", 2 * one)
    for found, wanted in zip(*map(jax.tree.leaves, (jax.jit(lambda: run())(), whole)), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert most_held(jax.make_jaxpr(run)().jaxpr) == 2 * one


def most_held(jaxpr):
    """Bytes of the largest softmax of a program."""
    own = [4 * e.outvars[0].aval.size for e in jaxpr.eqns if e.primitive.name == "exp"]
    return max([*own, *(most_held(one) for e in jaxpr.eqns for one in inside(e))], default=0)


def test_masks_share_a_pass_as_far_as_their_prompts_fit(prepared, monkeypatch):
    model, keep, told = tiny.model(), np.ones((5, *tiny.CONFIG.heads), bool), []
    of_all = model.config.pattern_bytes(prepared.batch.tokens.shape[1]) * 4

    def judged(*given):
        *_, masks, _, masks_at_once = given
        told.append((len(masks), masks_at_once))
        return jnp.zeros((len(masks), 4))

    monkeypatch.setattr(masked_passes, "_metric_under", judged)
    monkeypatch.setattr(masked_passes, "_metrics_under", lambda *given: (judged(*given),) * 2)
    a_call = masked_passes.MASKS_A_CALL * mesh.devices.mesh().shape[mesh.DATA]
    for fit, at_once in ((1, 1), (2, 2), (9, 4)):
        told.clear()
        monkeypatch.setattr(mesh, "HELD", fit * of_all)
        masked_passes.masked_metrics(model, prepared, keep, "logit_diff", 4)
        assert set(told) == {(a_call * at_once, at_once)}
        rows = jnp.asarray(keep, jnp.float32)
        masked_passes.metric_under(model.config, model.params, prepared, rows, "logit_diff", 4)
        assert told[-1] == (5, at_once)


@pytest.mark.parametrize("replacement", ["resample", "zero"])
def test_relevance_is_the_mean_over_parts_of_the_prompts(replacement, monkeypatch):
    model, task, sizes = tiny.model(), tiny.task(n=4), []
    prepared = ablation.trial(model, task.learn, replacement)
    one = model.config.n_layers * model.config.pattern_bytes(prepared.batch.tokens.shape[1])

    def effects(config, params, part, metric, options):
        sizes.append(len(part.batch.tokens))
        of_prompt = part.targets.answer_ids[:, 0] + jnp.sum(part.replacement, (0, 2, 3, 4))
        return jnp.full(config.heads[::-1], jnp.mean(of_prompt))

    monkeypatch.setattr(CDT, "_effects", effects)
    found = []
    for fit in (9, 3):  # of four prompts: all, and two and two
        monkeypatch.setattr(mesh, "HELD", fit * one)
        options = CDT.Cdt(replacement=replacement)
        found.append(CDT.cdt(model, task, jax.random.key(0), options).details["effects"])
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert sizes == [4, 2, 2]


def test_what_is_not_finite_is_looked_for_in_parts(monkeypatch):
    model, prompts = tiny.model(), tiny.task(n=5).learn.positives
    one, sizes = model.config.pattern_bytes(model.tokenize(prompts).tokens.shape[1]), []

    def finite(config, params, batch):
        sizes.append(len(batch.tokens))
        return [np.ones((2, *shape), bool) for shape in ((4,), (3, 4), (3,), (3,), ())]

    monkeypatch.setattr(language_model, "_finite", finite)
    monkeypatch.setattr(mesh, "HELD", 2 * one)
    assert model.first_not_finite(prompts) is None
    assert sizes == [2, 2, 2]
