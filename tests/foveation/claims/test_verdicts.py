"""Verdicts follow the rule; claims name what they rest on, and what is absent is left out."""

import dataclasses

import numpy as np
import pytest

from foveation_jax.claims import comparisons, statistics, verdicts
from foveation_jax.probes.curves import Curve
from tests.foveation.made_up import SYSTEMS, made_up_results


@pytest.fixture(scope="module")
def results():
    return made_up_results(n_runs=6)


@pytest.fixture(scope="module")
def table(results):
    return verdicts.judge(results)


def _named(table, name):
    return next(claim for claim in table.claims if claim.name == name)


@pytest.mark.parametrize(
    ("interval", "margin", "expected"),
    [
        ((0.01, 0.2), None, "holds"),
        ((-0.2, -0.01), None, "fails"),
        ((-0.01, 0.2), None, "undecided"),
        ((0.0, 0.2), None, "undecided"),
        ((np.nan, np.nan), None, "undecided"),
        ((-0.04, 0.03), 0.05, "holds"),
        ((0.06, 0.1), 0.05, "fails"),
        ((-0.2, -0.05), 0.05, "fails"),
        ((0.01, 0.06), 0.05, "undecided"),
        ((-0.1, 0.1), 0.05, "undecided"),
    ],
)
def test_verdict_follows_the_rule(interval, margin, expected):
    assert verdicts.verdict(interval, margin) == expected


def test_effects_that_were_put_in_are_found(table):
    assert _named(table, "1a/accuracy/foveation_texture~reference").verdict == "holds"
    for name in (
        "1b/accuracy/foveation_texture>uniform_blur",
        "1c/transfer/foveation_texture>foveation_blur",
        "2a/high_pass_grey/foveation_texture>reference",
        "2b/occlusion_scotoma/foveation_texture>uniform_blur",
        "3/window_crossover/reference>foveation_texture",
        "3/square_crossover/uniform_blur>foveation_blur",
        "4/2a/foveation_texture>uniform_blur",
        "perceptual/mutual_information/uniform_blur>foveation_texture",
    ):
        claim = _named(table, name)
        assert claim.verdict == "holds"
        assert claim.interval[0] > 0
        assert claim.p < 0.05


def test_every_claim_is_unique_and_consistent(table):
    names = [claim.name for claim in table.claims]
    assert len(set(names)) == len(names)
    assert {claim.number for claim in table.claims} == set(verdicts.HEADLINES)
    for claim in table.claims:
        assert claim.verdict == verdicts.verdict(claim.interval, claim.margin)
        assert claim.interval[0] < claim.effect < claim.interval[1]
        assert claim.p <= claim.p_holm <= 1
        assert claim.n == (40 if claim.counted == "images" else 6)
        assert claim.source
    assert [c.name for c in table.left_out] == ["4/architectures"]


def test_the_effect_is_the_difference_that_the_evidence_shows(table):
    for claim in table.claims:
        if claim.number in ("1a", "1b", "2a", "2b", "3"):
            above, below = (np.array(claim.evidence[n]) for n in (claim.above, claim.below))
            assert claim.effect == pytest.approx((above - below).mean())


def test_exchanged_systems_turn_verdicts_around(results, table):
    other = {"foveation_texture": "uniform_blur", "uniform_blur": "foveation_texture"}
    curves = []
    for curve in results.curves:
        family, _, kind = curve.probe.partition("/")
        if family == "generalization":
            kind = other.get(kind, kind)
        name = other.get(curve.system, curve.system)
        curves.append(Curve(f"{family}/{kind}", name, curve.levels, curve.accuracy))
    turned = verdicts.judge(dataclasses.replace(results, curves=tuple(curves)))
    for name in (
        "1b/accuracy/foveation_texture>uniform_blur",
        "1c/transfer/foveation_texture>uniform_blur",
        "2a/high_pass_colour/foveation_texture>uniform_blur",
        "3/window_crossover/uniform_blur>foveation_texture",
    ):
        before, after = _named(table, name), _named(turned, name)
        assert (before.verdict, after.verdict) == ("holds", "fails")
        assert after.effect == pytest.approx(-before.effect)
        np.testing.assert_allclose(after.interval, [-x for x in before.interval[::-1]])


def test_one_run_decides_nothing_about_networks():
    table = verdicts.judge(made_up_results(n_runs=1))
    for claim in table.claims:
        if claim.counted == "runs":
            assert claim.verdict == "undecided"
            assert claim.reason
            assert np.isnan([*claim.interval, claim.p, claim.p_holm]).all()
        else:
            assert claim.verdict == "holds"


def test_equal_differences_decide_nothing(results):
    equal = [
        dataclasses.replace(c, accuracy=np.repeat(c.accuracy[:1], 3, 0)) for c in results.curves
    ]
    table = verdicts.judge(dataclasses.replace(results, curves=tuple(equal), dynamics={}))
    claim = _named(table, "1b/accuracy/foveation_texture>uniform_blur")
    assert claim.verdict == "undecided"
    assert "same amount" in claim.reason


def test_being_equal_at_chance_says_nothing(results):
    rng = np.random.default_rng(0)
    curves = [
        dataclasses.replace(c, accuracy=results.chance + rng.normal(0, 0.003, c.accuracy.shape))
        for c in results.curves
    ]
    claim = verdicts.judge(dataclasses.replace(results, curves=tuple(curves))).claims[0]
    assert claim.margin == comparisons.MARGIN
    assert max(map(abs, claim.interval)) < claim.margin
    assert claim.verdict == "undecided"
    assert "chance" in claim.reason


def test_runs_without_crossover_are_left_out_and_said_so(results):
    never = []
    for curve in results.curves:
        if (curve.probe, curve.system) == ("window_conflict/centre", "reference"):
            accuracy = curve.accuracy.copy()
            accuracy[0] = 0
            curve = dataclasses.replace(curve, accuracy=accuracy)
        if (curve.probe, curve.system) == ("window_conflict/periphery", "reference"):
            accuracy = curve.accuracy.copy()
            accuracy[0] = 0.5
            curve = dataclasses.replace(curve, accuracy=accuracy)
        never.append(curve)
    table = verdicts.judge(dataclasses.replace(results, curves=tuple(never)))
    claim = _named(table, "3/window_crossover/reference>foveation_texture")
    assert claim.n == 5
    assert claim.reason == "1 of 6 pairs have no value"


@pytest.mark.parametrize(
    "systems", [("reference",), ("foveation_texture", "uniform_blur"), SYSTEMS[:3]]
)
def test_any_subset_of_systems_works_and_gives_reasons(systems):
    table = verdicts.judge(made_up_results(n_runs=3, systems=systems))
    for claim in table.claims:
        assert {claim.above, claim.below} <= set(systems)
    absent = [c for c in table.left_out if "foveation_blur" in c.name]
    assert absent
    assert all(c.reason.endswith(".") for c in table.left_out)
    assert any("of Foveation-Blur was not measured" in c.reason for c in absent)


def test_any_subset_of_probes_works(results):
    for family in ("generalization", "occlusion", "frequency", "window_conflict"):
        some = tuple(c for c in results.curves if c.probe.startswith(family))
        table = verdicts.judge(
            dataclasses.replace(results, curves=some, dynamics={}, perceptual={}, confusion=())
        )
        assert table.claims
        assert all(s.startswith(family) for claim in table.claims for s in claim.source)
    nothing = verdicts.judge(dataclasses.replace(results, curves=(), dynamics={}, perceptual={}))
    assert not nothing.claims


def test_unpaired_runs_are_refused(results):
    fewer = tuple(
        dataclasses.replace(c, accuracy=c.accuracy[:3]) if c.system == "uniform_blur" else c
        for c in results.curves
    )
    table = verdicts.judge(dataclasses.replace(results, curves=fewer, dynamics={}))
    reasons = {c.name: c.reason for c in table.left_out}
    assert "not paired" in reasons["1b/accuracy/foveation_texture>uniform_blur"]


def test_another_system_joins_the_comparisons_of_claim_2(results):
    asked = {q.name for q in comparisons.questions((*SYSTEMS, "mine"))}
    assert "2a/high_pass_grey/foveation_texture>mine" in asked
    assert "2b/occlusion_glaucoma/foveation_texture>mine" in asked


def test_transfer_takes_only_transforms_new_to_both(results):
    curves = {(c.probe, c.system): c.accuracy[:, 0] for c in results.curves}
    expected = [
        curves[f"generalization/{t}", "foveation_texture"] for t in ("reference", "foveation_blur")
    ]
    found = comparisons.transfer(results, "foveation_texture", "uniform_blur")
    np.testing.assert_allclose(found, np.mean(expected, 0))


def test_learning_averages_the_checkpoints_after_the_first(results, table):
    claim = _named(table, "4/1b/foveation_texture>uniform_blur")
    per_epoch = claim.evidence["effect_by_epoch"]
    assert list(per_epoch) == ["1", "5", "30"]
    assert claim.effect == pytest.approx(np.mean(list(per_epoch.values())))
    early = dataclasses.replace(results, dynamics={0: results.curves, 1: results.curves})
    reasons = {c.name: c.reason for c in verdicts.judge(early).left_out}
    assert "fewer than two checkpoints" in reasons[claim.name]


def test_share_is_the_area_above_chance_of_what_the_unprobed_accuracy_has(results):
    measure = comparisons.OCCLUSION["occlusion_scotoma"]
    curve = next(
        c for c in results.curves if (c.probe, c.system) == (measure.source[0], "reference")
    )
    area = statistics.area_under(curve.levels, curve.accuracy)
    expected = (area - results.chance) / (curve.accuracy[:, 0] - results.chance)
    np.testing.assert_allclose(measure.share(results, "reference"), expected)
