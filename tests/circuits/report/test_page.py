import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits_jax.report import page


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=12), st.sampled_from([0.05, 0.2]))
def test_labels_are_moved_apart_in_their_order(places, gap):
    moved = np.array(page.spread(places, gap))
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    if gap * (len(places) - 1) <= 1:
        assert moved.min() >= -1e-9
        assert moved.max() <= 1 + 1e-9


def test_labels_with_room_stay():
    assert page.spread([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


def test_a_figure_is_in_the_pages_colours_and_its_ids_are_its_own():
    def draw(axes):
        axes.fill_between([0, 1], [0, 0], [1, 1], color=page.series(3))
        page.hover(axes, 1, 2, "a < b", color=page.series(0))

    one, two = (page.figure(draw, name, "t", [{"a": 1}]) for name in ("one", "two/x"))
    ids = [set(re.findall(r'\bid="([^"]+)"', drawing)) for drawing in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for drawing, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", drawing)) <= own
        assert set(re.findall(r'href="#([^"]+)"', drawing)) <= own
    assert "var(--series-3)" in one
    assert "#f0f0" not in one
    assert "<title>a &lt; b</title>" in one
    assert 'download="two-x.csv"' in two
    assert one == page.figure(draw, "one", "t", [{"a": 1}])


def test_words_beside_lines_stand_apart():
    found = []

    def draw(axes):
        axes.plot([0, 1], [0, 1])
        labels = [(text, y, page.series(0)) for text, y in (("b", 0.5), ("a", 0.5), ("c", 0.51))]
        found.extend(page.label_lines(axes, labels, 0.1))

    page.figure(draw, "words", "t")
    assert min(np.diff(sorted(found))) >= 0.1 - 1e-9
    assert found[1] == pytest.approx(found[0] + 0.1)


def test_csv_quotes_what_it_must():
    import base64

    link = page.csv_link("a", [{"x": 'say "1, 2"', "y": 3}])
    data = base64.b64decode(re.search('base64,([^"]+)', link)[1]).decode()
    assert data == 'x,y\n"say ""1, 2""",3\n'


def test_the_index_lists_every_run_by_its_title(tmp_path):
    for number, name in enumerate(("old", "a b")):
        path = tmp_path / "runs" / name / "report.html"
        path.parent.mkdir(parents=True)
        path.write_text(f"<title>{name} &lt;i&gt;</title>")
        os.utime(path, (0, 10**9 * number))
    page.index_runs(tmp_path / "runs" / "old")
    text = (tmp_path / "runs" / "index.html").read_text()
    assert re.findall('href="([^"]+)">([^<]+)<', text) == [
        ("a%20b/report.html", "a b &lt;i&gt;"),
        ("old/report.html", "old &lt;i&gt;"),
    ]
    page.index_runs(tmp_path / "elsewhere" / "run")
    assert not (tmp_path / "elsewhere").exists()
