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


def grainy(images, key, *, scale=0.4, fixation=None, field_of_view=26.0, route="disarray"):
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
    system = {"foveation_texture": pictures.system_of("foveation_texture", config)}
    assert not pictures._export(source, pictures._compiled(system), config, out)
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
    again = sorted((out / "second_seed").rglob("*.png"))  # for the page
    assert len(again) == config_of(folder).report_images
    for path in again:
        first_seed = out / "foveation_texture" / path.relative_to(out / "second_seed")
        assert np.abs(read_image(path) - read_image(first_seed)).max() > 0.01
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


def fixations_file(path, source, places, header="image,y,x"):
    rows = [f"{name},{y},{x}" for name, (y, x) in zip(source.names, places, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8-sig")
    return str(path)


def test_every_picture_has_its_own_fixation(folder, tmp_path, monkeypatch):
    """The file's places reach the systems and the matching, in the order of their names."""
    spot = jnp.arange(SIZE[0])

    def marked(images, key, *, fixation=None):
        at = jnp.asarray(fixation, jnp.float32)
        row, column = (jnp.exp(-((spot - a) ** 2) / 2) for a in at)
        return jnp.maximum(0.3 * images, (row[:, None] * column[None])[None, ..., None])

    monkeypatch.setitem(SYSTEMS, "foveation_texture", marked)
    source = open_folder(folder)
    places = [(4 * n + 1, 30 - 4 * n) for n in range(7)]
    config = config_of(
        folder,
        systems=("reference", "foveation_texture"),
        fixations=fixations_file(tmp_path / "at.csv", source, places),
        batch_size=3,
    )
    pictures.run(config, tmp_path / "run")
    for name, place in zip(source.names, places, strict=True):
        seen = read_image(tmp_path / "run" / "foveation_texture" / f"{name}.png")[..., 0]
        assert np.unravel_index(seen.argmax(), seen.shape) == place
    found = dict(zip(source.names, np.asarray(places, np.float32), strict=True))
    looks = {name: {name: place} for name, place in found.items()}
    written = pictures.written_pictures(source, config, tmp_path / "run", looks)
    np.testing.assert_array_equal(written.read(np.array([5, 2]))[3], [places[5], places[2]])
    assert written.picture_of is None
    # Another file is another run.
    fixations_file(tmp_path / "at.csv", source, places[::-1])
    with pytest.raises(fj.InputError, match="fixations"):
        pictures.run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("y,x\n1,2", "must begin with a line image,y,x"),
        ("image,y,x\nattic/0,1", "line 2 .* must be image,y,x"),
        ("image,y,x\nattic/0,1,nan", "line 2"),
        ("image,y,x\nattic/0,1,two", "line 2"),
        ("image,y,x\nattic/0,1,2\n\nattic/0,1,-2", r"line 4 .* \(1.0, -2.0\)"),
        ("image,y,x\nattic/0,1,32", r"line 2 .* \(1.0, 32.0\).* \(31, 31\)"),
        ("image,y,x\nattic/0,1,2", "none for 6 of 7 pictures, such as 'attic/1'"),
        ("", "must begin"),
    ],
)
def test_fixations_of_files_that_cannot_be_used(folder, tmp_path, lines, words):
    path = tmp_path / "at.csv"
    path.write_text(lines)
    with pytest.raises(fj.InputError, match=words):
        pictures.run(config_of(folder, fixations=str(path)), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_one_fixation_and_one_for_each_are_not_both_taken(folder, tmp_path):
    fields = {"fixations": str(tmp_path / "at.csv"), "fixation": (3.0, 3.0)}
    with pytest.raises(fj.InputError, match="both set"):
        pictures.run(config_of(folder, **fields), tmp_path / "run")
    with pytest.raises(fj.InputError, match=r"at\.csv cannot be read"):
        pictures.run(config_of(folder, fixations=str(tmp_path / "at.csv")), tmp_path / "run")


def test_native_pictures_keep_their_size_and_a_panorama_is_told(tmp_path, capsys):
    root, out = tmp_path / "photographs", tmp_path / "run"
    rng = np.random.default_rng(0)
    for name, shape in (("a", (31, 45, 3)), ("b", (31, 45, 3)), ("c", (20, 128, 3))):
        write_png(root / f"{name}.png", rng.uniform(size=shape))
    fields = {"systems": ("reference", "foveation_texture")}
    done = pictures.run(config_of(root, fit="native", **fields), out)
    assert read_image(out / "reference" / "b.png").shape == (31, 45, 3)
    assert list(done.failures) == ["c"]
    assert "c: the picture has 20 x 128 pixels, not 31 x 45" in done.failures["c"]
    assert capsys.readouterr().err.count("lost over") == 0
    pictures.run(config_of(root, **fields), tmp_path / "cropped")
    assert "1 of the pictures" in (said := capsys.readouterr().err)
    assert "c most (84%): fit=pad" in said
    pictures.run(config_of(root, fit="pad", **fields), tmp_path / "padded")
    padded = read_image(tmp_path / "padded" / "reference" / "c.png")
    np.testing.assert_allclose(padded[:13], 128 / 255, atol=3e-3)
    assert padded[14:18].std() > 0.05  # .29 / 4: uniform noise, of which 4 x 4 pixels become one
    assert "lost over" not in capsys.readouterr().err
    with pytest.raises(fj.InputError, match="fit is 'stretch'; allowed are crop, pad, native"):
        pictures.run(config_of(root, fit="stretch", **fields), tmp_path / "stretched")
