"""A scan path on the page: drawn once over Reference, then a row a look, each with its cross."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from foveation_jax.data import ImageSource, write_png
from foveation_jax.report import overlay, stage1_page
from foveation_jax.windows.pooling_windows import pooling_windows

SYSTEMS = ("reference", "foveation_texture")
SIZE = (24, 30)
LOOKS = {
    "one": {"one": np.float32([4, 6])},
    "path": {f"path-{k}": np.float32(at) for k, at in enumerate([(2, 3), (20, 25.5), (9, 0)], 1)},
}


def written(workdir, looks):
    (workdir / "experiment.json").write_text("{}")
    config = ConfigDict(
        {
            "size": SIZE, "scale": 0.5, "fixation": None, "field_of_view": 26.0,
            "report_images": 2, "metrics": ("mse",), "route": "disarray", "published": False,
            "match_tolerance": 0.01, "fixations": "at.csv",
        }
    )  # fmt: skip
    names = tuple(look for path in looks.values() for look in path)
    random = np.random.RandomState(0)
    for name in names:
        for system in SYSTEMS:
            write_png(workdir / system / f"{name}.png", random.uniform(size=(*SIZE, 3)))
    source = ImageSource(names, np.zeros(len(names), np.int32), (), lambda index: None)
    rows = [{"image": n, "system": SYSTEMS[1], "mse": 0.5} for n in names]
    path = stage1_page.write_report(workdir, config, SYSTEMS, source, rows, {}, {}, looks)
    return path.read_text()


def crosses(text):
    """(y, x) of every cross, in order."""
    found = re.findall(r'class="cross" d="M([-\d.]+) ([\d.]+)h([\d.]+)M', text)
    return [(float(y) - 0.5, float(x) + float(arms) / 2 - 0.5) for x, y, arms in found]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return written(tmp_path_factory.mktemp("run"), LOOKS)


def test_every_look_has_its_own_cross(page):
    seen = page[page.index('id="seen"') : page.index('id="windows"')]
    places = [tuple(at) for at in LOOKS["one"].values() for _ in SYSTEMS]
    places += [tuple(at) for at in LOOKS["path"].values()]
    np.testing.assert_allclose(crosses(seen), places, atol=0.01)
    assert seen.count('class="scale"') == len(places)


def test_a_path_is_drawn_once_with_its_fixations_numbered(page):
    assert page.count('class="path"') == 1
    assert page.count('class="look"') == 3
    assert "y 20, x 25.5" in page
    assert "of each picture, scan path" in page
    drawing = overlay.path_svg(pooling_windows(0.5, SIZE), list(LOOKS["path"].values()))
    assert drawing in page
    assert re.findall(r"<polyline[^>]*points=\"([^\"]+)\"/>", drawing)[-1] == (
        "3.50,2.50 26.00,20.50 0.50,9.50"
    )
    assert re.findall(r">(\d)</text>", drawing) == ["1", "2", "3"]
    assert "<title>Scan path of 3 fixations, 1: y 2, x 3; 2: y 20" in drawing
    assert 'role="img"' in drawing


def test_windows_are_of_the_first_fixation_and_no_eccentricity_is_of_all(page, tmp_path):
    windows = page[page.index('id="windows"') :]
    np.testing.assert_allclose(crosses(windows)[0], (4, 6), atol=0.01)
    assert "the cross is its fixation" in windows
    for words in ("Where it is lost", "How good a texture it is"):
        assert words not in page
    alone = written(tmp_path, {"one": LOOKS["one"]})
    assert "of each picture</b>" in alone
    assert 'class="look"' not in alone
