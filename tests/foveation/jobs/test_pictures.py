"""The stage-1 run: noise that is a picture's own, and blurs that match on the run's pictures."""

import functools
import json
import pathlib
import runpy
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.data import open_folder, read_image, render_scenes, write_png
from foveation_jax.jobs import pictures, train_decoder
from foveation_jax.stage1.export import name_digests, picture_key
from foveation_jax.transforms import SYSTEMS, matched
from foveation_jax.transforms.uniform_blur import blur_batch

ROOT = pathlib.Path(__file__).parents[3]
SIZE = (32, 32)


def grainy(images, key, *, scale=0.4, fixation=None, field_of_view=26.0, route="pyramid"):
    """A texture's stand-in that draws noise, and loses more of a bright picture."""
    noise = jax.random.uniform(key, images.shape[1:])[None] - 0.5
    bright = images.mean((1, 2, 3), keepdims=True) > 0.7
    seen = jnp.where(bright, *(blur_batch(images, jnp.float32(s)) for s in (2.0, 0.7)))
    return jnp.clip(seen + 0.03 * noise, 0, 1)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setitem(SYSTEMS, "foveation_texture", grainy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures in two classes; those of "sky" are bright."""
    root = tmp_path_factory.mktemp("photographs")
    pictures = np.asarray(render_scenes(jax.random.key(0), np.arange(7), SIZE))
    for number, picture in enumerate(pictures):
        bright = number >= 4
        shown = (0.5 * picture, 0.6 + 0.4 * picture)[bright]
        write_png(root / ("attic", "sky")[bright] / f"{number}.png", shown)
    return root


def config_of(folder, **fields):
    config = runpy.run_path(str(ROOT / "configs/foveation/transforms.py"))["get_config"]()
    fields = {"systems": ("reference", "foveation_texture", "uniform_blur")} | fields
    for name, value in (
        {"images": str(folder), "size": SIZE, "metrics": ("ssim",)} | fields
    ).items():
        config[name] = value
    return config


def written(folder, out, batch_size, names=None):
    """Bytes of every picture that the stand-in makes of those names."""
    source = open_folder(folder)
    if names:
        source = source.subset([source.names.index(name) for name in names])
    config = config_of(folder, batch_size=batch_size)
    system = {"foveation_texture": pictures._system("foveation_texture", config)}
    assert not pictures._export(source, system, config, out)
    return {n: (out / "foveation_texture" / f"{n}.png").read_bytes() for n in source.names}


def test_noise_is_a_pictures_own(folder, tmp_path, monkeypatch):
    """Neither batches nor devices nor other pictures move a byte."""
    expected = written(folder, tmp_path / "of-8", 8)
    assert len(set(expected.values())) == 7
    assert written(folder, tmp_path / "of-1", 1) == expected
    names = sorted(expected)
    some = written(folder, tmp_path / "some", 2, names[3:])
    assert some == {name: expected[name] for name in names[3:]}
    assert written(folder, tmp_path / "some", 3) == expected  # it goes on with the others
    devices = jax.devices()
    assert len(devices) == 2
    monkeypatch.setattr(jax, "devices", lambda *_: devices[:1])
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    assert written(folder, tmp_path / "alone", 3) == expected


def test_noise_of_two_pictures_differs():
    one, two, same = name_digests(["attic/1", "attic/2", "attic/1"])
    assert np.array_equal(one, same)
    keys = [picture_key(jax.random.key(0), jnp.asarray(d)) for d in (one, two)]
    assert not np.array_equal(*(jax.random.key_data(key) for key in keys))
    swapped = picture_key(jax.random.key(0), jnp.asarray(one[::-1].copy()))
    assert not np.array_equal(*(jax.random.key_data(key) for key in (keys[0], swapped)))


@functools.cache
def gap_on_disk(out, system="uniform_blur"):
    """Mean SSIM of the blur's pictures less that of the texture's, on those that are there."""
    means = []
    for name in (system, "foveation_texture"):
        paths = sorted((out / "reference").rglob("*.png"))
        pairs = [(read_image(p), read_image(out / name / p.relative_to(out / "reference")))
                 for p in paths]  # fmt: skip
        a, b = (jnp.stack([jnp.asarray(x) for x in side]) for side in zip(*pairs, strict=True))
        means.append(float(fj.metrics.ssim(a, b).mean()))
    return means[0] - means[1]


def test_a_run_that_gets_more_pictures_matches_on_all_of_them(folder, tmp_path):
    """With `limit` the first are of one class: their sigma does not hold on the other's."""
    out = tmp_path / "out"
    first = pictures.run(config_of(folder, limit=4), out)
    assert first.matches["uniform_blur"].n_images == 4
    assert abs(gap_on_disk(out)) < 0.01
    results = pictures.run(config_of(folder), out)
    match = results.matches["uniform_blur"]
    assert match.n_images == 7
    assert match.sigma_deg != first.matches["uniform_blur"].sigma_deg
    gap_on_disk.cache_clear()
    assert gap_on_disk(out) == pytest.approx(match.whole_gap, abs=2e-3)
    assert abs(match.whole_gap) < 0.01
    assert match.sentence() in results.lines()
    assert "on 7 pictures; sigmas matched here, on 7" in match.sentence()
    page = (out / "report.html").read_text()
    assert f"gap {match.whole_gap:+.4f}" in page
    assert "equal mean SSIM" not in page
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len({(row["image"], row["system"]) for row in rows}) == 14
    blurred = np.mean([row["ssim"] for row in rows if row["system"] == "uniform_blur"])
    assert blurred == pytest.approx(match.whole[0], abs=2e-3)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert pictures.run(config_of(folder), out).matches == results.matches
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.png")} == before
    (out / "uniform_blur.json").write_text('{"system": "unif')
    with pytest.raises(fj.InputError, match=r"uniform_blur\.json: not a record .* Delete it"):
        pictures.run(config_of(folder), out)


def test_a_blur_that_no_sigma_matches_is_left_out_with_a_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "foveation_texture", lambda images, key: 1 - images)
    results = pictures.run(config_of(folder, limit=2), tmp_path / "out")
    assert not results.matches
    assert "uniform_blur is left out: match: no sigma" in results.failures["uniform_blur"]
    assert not (tmp_path / "out" / "uniform_blur").exists()


def test_the_kept_record_is_what_a_user_may_give(folder, tmp_path):
    out = tmp_path / "out"
    match = pictures.run(config_of(folder, limit=4), out).matches["uniform_blur"]
    assert matched.load(out / "uniform_blur.json") == match
    image = jnp.asarray(read_image(folder / "attic" / "0.png"))[None]
    seen = fj.transform("uniform_blur", image, jax.random.key(0), matched=out / "uniform_blur.json")
    on_disk = read_image(out / "uniform_blur" / "attic" / "0.png")
    np.testing.assert_allclose(seen[0], on_disk, atol=1 / 255)


WRONG = {bool: 3, int: "many", float: "wide", str: 7, tuple: 5}


@pytest.mark.parametrize("job", ["transforms", "train_decoder"])
def test_a_field_of_another_type_is_refused_by_name(job, folder, tmp_path):
    """Every field in turn; and one that is missing."""
    config = runpy.run_path(str(ROOT / f"configs/foveation/{job}.py"))["get_config"]()
    run = {"transforms": pictures.run, "train_decoder": train_decoder.run}[job]
    for field in config:
        kind = config.get_type(field)
        wrong = config.copy_and_resolve_references()
        with wrong.ignore_type():
            wrong[field] = WRONG[kind]
        with pytest.raises(fj.InputError, match=f"config.{field} is {WRONG[kind]!r}; it must be"):
            run(wrong, tmp_path / "out")
    with config.unlocked():
        del config.scale
    with pytest.raises(fj.InputError, match=r"the config file sets no config\.scale"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_gained_pictures_has_the_new_ones_done(folder, tmp_path):
    root, out = tmp_path / "photographs", tmp_path / "out"
    shutil.copytree(folder, root)
    late = root / "sky" / "6.png"
    aside = late.rename(tmp_path / "6.png")
    first = pictures.run(config_of(root), out)
    before = {p: p.stat().st_mtime_ns for p in (out / "foveation_texture").rglob("*.png")}
    assert (first.pictures, len(before)) == (6, 6)
    aside.rename(late)
    assert pictures.run(config_of(root), out).pictures == 7
    after = {p: p.stat().st_mtime_ns for p in (out / "foveation_texture").rglob("*.png")}
    assert len(after) == 7
    assert {p: t for p, t in after.items() if p in before} == before
    assert pictures.run(config_of(root), out).pictures == 7  # and once more, with nothing new

    refused = pytest.raises(fj.InputError, match=r"images=.*photographs names has changed since")
    content = late.read_bytes()
    shutil.copy(root / "sky" / "5.png", late)  # another picture in its place, and a new one
    shutil.copy(root / "sky" / "5.png", root / "sky" / "8.png")
    with refused:
        pictures.run(config_of(root), out)
    late.write_bytes(content)
    assert pictures.run(config_of(root), out).pictures == 8
    late.unlink()
    with refused:
        pictures.run(config_of(root), out)
    late.write_bytes(content)
    (root / "barn").mkdir()  # another class: the numbers of the others move
    shutil.copy(late, root / "barn" / "1.png")
    with refused:
        pictures.run(config_of(root), out)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), 1.5])
def test_a_tolerance_out_of_range_is_refused(folder, tmp_path, tolerance):
    with pytest.raises(fj.InputError, match="match_tolerance is"):
        pictures.run(config_of(folder, match_tolerance=tolerance), tmp_path / "out")
