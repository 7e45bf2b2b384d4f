"""The page is one file that needs no other; it draws what was measured, and only that."""

import dataclasses
import html
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from foveation_jax.claims import verdicts
from foveation_jax.claims.results import ClaimTable, ProbeResults, title
from foveation_jax.probes.curves import Curve
from foveation_jax.probes.evaluate import PROBES
from foveation_jax.report import experiment_figures, experiment_page, samples
from foveation_jax.report.page import COLOURS
from foveation_jax.report.stage1_page import TITLES
from foveation_jax.windows.pooling_windows import pooling_windows
from tests.foveation.made_up import SYSTEMS, made_up_results


@pytest.fixture(scope="module")
def made():
    results = made_up_results(n_runs=3)
    results = dataclasses.replace(
        results, class_names=("<b>kitchen", *results.class_names[1:]), systems=SYSTEMS
    )
    return results, verdicts.judge(results)


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    path = experiment_page.write_report(*made, tmp_path_factory.mktemp("run"))
    assert path.name == "report.html"
    return path.read_text()


def test_page_is_one_file_that_needs_no_other(page):
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script src" not in page
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(http" not in page


def test_ids_are_unique_and_every_reference_is_found(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    used = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert used
    assert set(used) <= set(ids)


def test_names_are_escaped(page):
    assert "&lt;b&gt;kitchen" in page
    assert "<b>kitchen" not in page


def test_every_claim_is_there_with_its_verdict_and_numbers(page, made):
    text = html.unescape(page)
    for claim in made[1].claims:
        assert claim.statement in text
        assert experiment_page.effect_text(claim.effect, claim.unit) in text
        assert experiment_page.interval_text(claim) in text
    badges = re.findall(r'class="badge (\w+)"', page)
    assert badges == [claim.verdict for claim in made[1].claims]
    assert verdicts.RULE in text
    assert "12345" in text  # the settings


def test_pictures_come_first_with_fixation_degrees_and_windows(made):
    results = dataclasses.replace(made[0], windows=pooling_windows(0.5, (32, 32)))
    text = experiment_page.render(results, made[1])
    order = [text.index(f'<section id="{name}">') for name in ("seen", "holds", "accuracy")]
    assert order == sorted(order)
    seen = text[order[0] : order[1]]
    assert "The cross is the fixation," in seen
    assert seen.count('class="marks"') == sum(len(strip.images) for strip in results.strips) > 0
    of_systems = [s for s in results.strips if set(s.captions) <= set(SYSTEMS)]
    assert seen.count('class="windows"') == len(of_systems) > 0


def test_images_with_fixations_of_their_own_are_marked_there(made, monkeypatch):
    monkeypatch.setattr(samples, "PROBES", {"occlusion/scotoma": PROBES["occlusion/scotoma"]})
    windows, places = pooling_windows(0.5, (32, 32)), [(1.0, 2.0), (3.0, 20.0), (30.0, 8.0)]
    shown = {name: np.zeros((3, 32, 32, 3), np.uint8) for name in SYSTEMS}
    strips = samples.sample_strips(
        shown, np.array([0, 1, 0]), ("a", "b"), mean=np.zeros(3, np.float32), windows=windows,
        n_images=2, fixations=np.array(places, np.float32),
    )  # fmt: skip
    assert [strip.title for strip in strips] == ["a", "b", "occlusion/scotoma"]
    looked = {"config": {"stage1": {"fixations": "looks.csv"}}}
    results = dataclasses.replace(made[0], windows=windows, strips=strips, experiment=looked)
    text = experiment_page.render(results, made[1])
    crosses = re.findall(r'class="cross" d="M([\d.]+) ([\d.]+)h', text)
    at_first, at_second = ((f"{x + 0.5 - 1:.2f}", f"{y + 0.5:.2f}") for y, x in places[:2])
    of_probe = len(strips[2].images)
    assert crosses == [at_first] * 5 + [at_second] * 5 + [at_first] * of_probe
    drawn = re.findall(r'<svg class="windows".*?</svg>', text)
    rings = [len(strip.windows.ring_edges()) for strip in strips[:2]]
    assert [svg.count("<circle") for svg in drawn] == rings
    assert "The cross is the first of the image's own fixations," in html.unescape(text)
    without = experiment_page.render(dataclasses.replace(results, strips=()), made[1])
    for page in (text, without):  # below occlusion, and of the centre
        assert page.count("wherever it is looked at") == 2
    assert "wherever it is looked at" not in experiment_page.render(*made)


def test_a_probe_of_ones_own_has_its_section(made, monkeypatch):
    own = dataclasses.replace(
        PROBES["occlusion/scotoma"], title="Turned about the centre", label="angle, degrees",
        scale="value",
    )  # fmt: skip
    monkeypatch.setitem(PROBES, "turning/clockwise", own)
    curve = Curve("turning/clockwise", SYSTEMS[0], np.array([0.0, 90.0]), np.full((3, 2), 0.25))
    results = dataclasses.replace(made[0], curves=(*made[0].curves, curve))
    page = experiment_page.render(results, made[1])
    assert 'href="#turning">Turning<' in page
    _, _, section = page.partition('<section id="turning">')
    section = section.partition("</section>")[0]
    assert "Turned about the centre" in section
    assert "angle, degrees" in section
    assert re.search(r">\s*80\s*<", section)  # degrees, not a share of 100 %


def test_every_section_is_there(page):
    for heading in (
        "What holds on this data", "Claim by claim", "Accuracy", "What the networks see",
        "Generalization", "Occlusion", "Centre against periphery", "Spatial frequency",
        "Along learning", "First-layer filters", "What stage 1 loses",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page


def test_drawings_use_the_colours_of_the_page(page):
    for number in range(len(SYSTEMS)):
        assert page.count(f"var(--series-{number})") > 20
    for colour in COLOURS.values():
        assert colour not in page


def test_what_is_not_there_is_left_out():
    empty = ProbeResults(("reference",), ("a", "b"), "my_network", ())
    page = experiment_page.render(empty, verdicts.judge(empty))
    assert re.findall("<h2>(.*)</h2>", page) == ["What holds on this data", "Claim by claim"]
    assert "my_network" in page
    assert "was not measured" in page


def test_images_that_were_left_out_are_counted_and_named(made):
    assert "could not be read" not in experiment_page.render(*made)
    names = {f"<i>kitchen/{number}": "cut short" for number in range(7)}
    left = {"train": names, "test": {"bar/2": "cut short"}}
    page = experiment_page.render(dataclasses.replace(made[0], skipped=left), made[1])
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())
    assert "7 train images could not be read and are left out: <i>kitchen/0," in text
    assert "<i>kitchen/4, …. All are in results.json" in text
    assert "1 test image could not be read and is left out: bar/2. All" in text


def test_one_run_is_named_as_such():
    results = made_up_results(n_runs=1, systems=SYSTEMS[:2], with_pictures=False)
    page = experiment_page.render(results, verdicts.judge(results))
    assert "One run." in page
    assert 'class="badge holds"' not in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split()


def test_what_is_decided_is_told_apart_from_what_is_not(made):
    """Numbers with a verdict have a headline each; the others share one sentence."""
    results, table = made
    unsure = [dataclasses.replace(claim, verdict="undecided") for claim in table.claims]
    first = dataclasses.replace(unsure[0], verdict="holds")
    page = experiment_page.render(results, dataclasses.replace(table, claims=(first, *unsure[1:])))
    holds = page[page.index('<section id="holds">') :].partition("</section>")[0]
    told, _, left = holds.partition("</ul>")
    assert re.findall(r'href="#claim-(\w+)"', told) == [first.number]
    others = dict.fromkeys(claim.number for claim in unsure if claim.number != first.number)
    assert re.findall(r'href="#claim-(\w+)"', left) == list(others)


def test_headlines_count_verdicts(made):
    table = made[1]
    for number, _, counts, sure in experiment_page.headlines(table):
        members = [c for c in table.claims if c.number == number]
        assert sum(counts.values()) == len(members)
        assert counts["holds"] == sum(c.verdict == "holds" for c in members)
        assert sure <= counts["holds"]
    assert experiment_page.headlines(ClaimTable((), ())) == []


def test_blurs_that_lose_less_than_the_texture_are_named(made):
    panel = {"foveation_texture": 0.80, "uniform_blur": 0.81, "foveation_blur": 0.95}
    panel = {name: {"ssim": np.array([x - 0.1, x + 0.1])} for name, x in panel.items()}
    found = experiment_page.unmatched(dataclasses.replace(made[0], perceptual=panel))
    assert found == [("foveation_blur", pytest.approx(0.95), pytest.approx(0.80))]
    del panel["foveation_texture"]
    assert not experiment_page.unmatched(dataclasses.replace(made[0], perceptual=panel))
    few = made_up_results(n_runs=2, systems=SYSTEMS[1:3], with_pictures=False)
    few = dataclasses.replace(few, curves=(), dynamics={}, training=())
    assert "not matched on these images" not in experiment_page.render(few, verdicts.judge(few))
    few.perceptual["uniform_blur"]["ssim"] += 0.1
    assert "not matched on these images" in experiment_page.render(few, verdicts.judge(few))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0314, "accuracy", "+3.1 points"),
        (-0.2, "area", "-20.0 % area"),
        (0.00123, "squared", "+0.00123"),
        (float("nan"), "bits", "undefined"),
    ],
)
def test_effects_have_units(value, unit, text):
    assert experiment_page.effect_text(value, unit) == text


def test_p_values():
    texts = [experiment_page.p_text(p) for p in (0.0001, 0.0321, 1.0, float("nan"))]
    assert texts == ["< .001", ".032", "1.000", "-"]


def test_forest_places_zero_in_the_middle_and_cuts_what_is_too_long(made):
    members = [c for c in made[1].claims if c.number == "2a"]
    rows, limit = experiment_figures.forest(members)
    for claim, row in zip(members, rows, strict=True):
        assert (2 * row.effect - 1) * limit == pytest.approx(claim.effect)
        assert 0 <= row.low < row.effect < row.high <= 1
        assert row.margin is None
    wide = dataclasses.replace(members[0], interval=(-50.0, 50.0))
    rows, _ = experiment_figures.forest([wide, *members[1:]])
    assert rows[0].cut == (True, True)
    assert (rows[0].low, rows[0].high) == (0, 1)
    none = dataclasses.replace(members[0], effect=float("nan"), interval=(float("nan"),) * 2)
    assert experiment_figures.forest([none])[0][0].effect is None
    equal = next(c for c in made[1].claims if c.margin)
    low, high = experiment_figures.forest([equal])[0][0].margin
    assert 0 < low < 0.5 < high < 1
    assert low + high == pytest.approx(1)


def test_a_system_keeps_its_look_whatever_others_are_shown():
    everyone, two = (
        experiment_figures.styles((*SYSTEMS, "mine")),
        experiment_figures.styles(SYSTEMS[2:]),
    )
    for name in SYSTEMS[2:]:
        both = [dataclasses.replace(look[name], number=0) for look in (everyone, two)]
        assert both[0] == both[1]
    assert len({style.light for style in everyone.values()}) == 5
    assert set(experiment_figures.COLOURS) == set(TITLES)
    assert [title(name) for name in TITLES] == [name for name, _ in TITLES.values()]


def test_figures_are_drawings_that_parse():
    curve = Curve("occlusion/scotoma", "mine", np.array([0.0, 0.5, 1.0]), np.full((1, 3), 0.25))
    look = experiment_figures.styles(("mine",))
    drawing = experiment_figures.probe_figure([curve], look, 0.1, 0.5, "a probe")
    root = xml.etree.ElementTree.fromstring(drawing[: drawing.index("</svg>") + 6])
    assert root.tag.endswith("svg")
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "chance" in texts
    assert "area hidden, % of the image" in texts


def test_mosaic_shows_every_filter_where_it_belongs():
    filters = np.zeros((2, 3, 3, 5))
    filters[..., 4] = 1.0
    canvas = experiment_figures.mosaic(filters)
    assert canvas.shape == (2 * 3 - 1, 3 * 4 - 1, 3)
    assert (canvas[3:5, 4:7] == 255).all()
    canvas[3:5, 4:7] = 128
    assert (canvas == 128).all()
