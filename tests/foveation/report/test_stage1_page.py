"""The page is one file with everything in it; tables and drawings hold the run's numbers."""

import base64
import re

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from foveation_jax import metrics
from foveation_jax.data import ImageSource, write_png
from foveation_jax.report import overlay, stage1_page
from foveation_jax.transforms.matched import Match
from foveation_jax.windows.pooling_windows import pooling_windows

SYSTEMS = ("reference", "foveation_texture", "foveation_blur")
SIZE = (48, 64)
NAMES = ("a/<b>one", "two")


def _match() -> Match:
    ecc, sigma = (2.0, 8.0), (0.25, 1.5)
    return Match(
        "foveation_blur", "ssim", "a target", 0.5, 7, ecc, sigma, (0.9, 0.5), (0.901, 0.498),
        ((0.0, 0.002), (-0.004, 0.001)), (0.25, 0.75), (-0.0031, 0.0012), SIZE, (23.5, 31.5), 26.0,
        "sigmas matched here, on 5",
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return written(tmp_path_factory.mktemp("run"))


def written(workdir, **changed):
    """A run's page: folder, path and text."""
    (workdir / "experiment.json").write_text('{"config": {"marker": 12345}}')
    config = ConfigDict(
        {
            "size": SIZE, "scale": 0.5, "fixation": None, "field_of_view": 26.0,
            "report_images": 2, "metrics": ("mse", "ssim"), "route": "disarray", "published": False,
            "match_tolerance": 0.01,
        }
        | changed
    )  # fmt: skip
    random, rows = np.random.RandomState(0), []
    for name in NAMES:
        for number, system in enumerate((*SYSTEMS, stage1_page.SECOND)):
            write_png(workdir / system / f"{name}.png", random.uniform(size=(*SIZE, 3)))
            if system in SYSTEMS[1:]:
                row = {"image": name, "system": system, "mse": 0.125 * number, "ssim": 0.5}
                rows.append(row)
    source = ImageSource(NAMES, np.zeros(2, np.int32), (), lambda index: None)
    failures = {"bad": "bad.png: this file is not a picture that can be read."}
    path = stage1_page.write_report(
        workdir, config, SYSTEMS, source, rows, failures, {"foveation_blur": _match()}
    )
    return workdir, path, path.read_text()


def test_page_is_one_file_that_needs_no_other(page):
    workdir, path, text = page
    assert path == workdir / "report.html"
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "<script src" not in text
    assert "default-src 'none'" in text
    assert not list(workdir.glob("*.unfinished"))


def test_every_picture_of_every_system_is_embedded_at_full_size(page):
    workdir, _, text = page
    for name in NAMES:
        for system in SYSTEMS:
            data = (workdir / system / f"{name}.png").read_bytes()
            assert base64.b64encode(data).decode() in text
    assert f".seen figure {{ width: {SIZE[1]}px;" in text


def test_texture_of_another_seed_stands_beside_it(page):
    workdir, _, text = page
    assert text.count("Foveation-Texture, another seed") == len(NAMES)
    at = [
        text.index(base64.b64encode((workdir / s / f"{NAMES[0]}.png").read_bytes()).decode())
        for s in ("foveation_texture", stage1_page.SECOND, "foveation_blur")
    ]
    assert at == sorted(at)


def test_table_of_the_texture_by_eccentricity(page, tmp_path):
    """Pictures of independent noise: no places left, the energies the same."""
    config = ConfigDict({"size": SIZE, "scale": 0.5, "fixation": None, "field_of_view": 26.0})
    heads, *rows = stage1_page.texture_table(page[0], NAMES, config)
    table = {name: np.asarray([float(c or "nan") for c in cells]) for name, _, cells in rows}
    assert {len(cells) for _, _, cells in rows} == {len(heads[2])}
    assert (np.abs(table["correlation, octave 0"][2:5]) < 0.3).all()
    assert (np.abs(table["energy, octave 0"][2:5] - 1) < 0.3).all()
    assert {"coherence of gradients", "error, phase", "error, mean", "variance"} - {*table} <= {
        "error, phase"
    }  # one octave has none across scales
    assert "How good a texture it is" in page[2]
    small = ConfigDict({"size": (24, 24)})
    assert stage1_page.texture_table(tmp_path, NAMES, small) == []


def test_names_are_escaped(page):
    assert "a/&lt;b&gt;one" in page[2]
    assert "<b>one" not in page[2]


def test_tables_hold_the_numbers(page):
    text = page[2]
    assert "0.12500" in text  # mean squared error of the texture
    assert "0.25000" in text
    assert "+0.0010" in text  # gap of the inner ring
    assert "-0.0040" in text  # end of the outer ring's interval
    assert _match().whole_gap == pytest.approx(0.25 * 0.001 - 0.75 * 0.002)
    assert f"<td>{_match().whole_gap:+.4f}</td>" in text
    assert "-0.0031 to +0.0012" in text
    assert "on 7 pictures; sigmas matched here, on 5" in text
    assert f"{1.5 * 64 / 26:.2f}" in text  # its sigma in pixels
    assert "bad.png: this file is not a picture" in text
    assert "12345" in text


def test_windows_are_drawn_where_they_are():
    windows = pooling_windows(0.5, SIZE, (10.0, 20.0))
    drawing = overlay.windows_svg(windows)
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawing)
    assert len(circles) == windows.n_rings + 1
    assert drawing.count("<line") == windows.n_wedges
    assert {(x, y) for x, y, _ in circles} == {("20.50", "10.50")}
    # On a circle to the right of the fixation, the fovea and the first ring weigh one half.
    radius = float(circles[0][2])
    rings, _ = windows.factors(jnp.array([10.0]), jnp.array([20.0 + radius]))
    np.testing.assert_allclose(rings[0, 0, 0], 0.5, atol=0.02)


def test_marks_are_the_fixation_and_so_many_degrees():
    windows = pooling_windows(0.5, SIZE, (10.0, 20.0), field_of_view=26.0)
    drawing = overlay.marks_svg(windows)
    x, y, arms = re.search(r'class="cross" d="M([\d.]+) ([\d.]+)h([\d.]+)M', drawing).groups()
    assert (float(x) + float(arms) / 2, float(y)) == (20.5, 10.5)
    length = float(re.search(r'class="scale" d="M[\d.]+ [\d.]+h([\d.]+)"', drawing).group(1))
    told = float(re.search(r">([\d.]+)°<", drawing).group(1))
    assert told == overlay.scale_degrees(26.0) == 5
    np.testing.assert_allclose(length, told * 64 / 26.0, atol=0.01)
    assert overlay.scale_degrees(3.0) == 0.5


def test_every_picture_has_the_marks(page):
    text = page[2]
    seen = text[text.index('id="seen"') : text.index('id="windows"')]
    assert (
        seen.count("<img") == seen.count('class="marks"') == len(NAMES) * (len(SYSTEMS) + 1)
    )  # a seed


def test_wedge_borders_are_where_neighbours_weigh_the_same():
    windows = pooling_windows(0.5, (64, 64))
    x1, y1 = map(
        float,
        re.search(r'x2="([-\d.]+)" y2="([-\d.]+)"', overlay.windows_svg(windows)).groups(),
    )
    _, wedges = windows.factors(jnp.array([y1 - 0.5]), jnp.array([x1 - 0.5]))
    np.testing.assert_allclose(np.sort(wedges[:, 0, 0])[-2:], 0.5, atol=0.02)


def test_ssim_by_eccentricity_averages_the_map(page):
    workdir = page[0]
    windows = pooling_windows(0.5, SIZE)
    means, eccentricity = stage1_page.ssim_by_eccentricity(workdir, SYSTEMS, NAMES, windows)
    assert set(means) == set(SYSTEMS[1:])
    assert (np.diff(eccentricity) > 0).all()
    assert means["foveation_blur"].shape == eccentricity.shape
    same = ("reference", "reference2")
    for name in NAMES:
        target = workdir / "reference2" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((workdir / "reference" / f"{name}.png").read_bytes())
    means, _ = stage1_page.ssim_by_eccentricity(workdir, same, NAMES, windows)
    np.testing.assert_allclose(means["reference2"], 1, atol=1e-4)


def test_table_leaves_out_metrics_that_were_not_measured():
    rows = [
        {"system": "foveation_texture", "ssim": 0.25},
        {"system": "foveation_texture", "ssim": 0.75},
    ]
    table = stage1_page.metric_table(rows, SYSTEMS[:2], ("ms_ssim", "ssim"))
    assert table == [("SSIM", "1 is equal", [("0.5000", "0.2500")])]
    assert set(stage1_page.METRIC_TITLES) == set(metrics.METRICS)
