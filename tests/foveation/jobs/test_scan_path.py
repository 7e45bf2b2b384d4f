"""Several lines of one picture in the file of fixations are its scan path, a look each."""

import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.data import open_folder, read_image, render_scenes, write_png
from foveation_jax.data.fixations import each_look, read_fixations
from foveation_jax.jobs import pictures
from foveation_jax.runs.files import read_rows
from foveation_jax.stage1.export import name_digests, picture_key
from foveation_jax.transforms import SYSTEMS

ROOT = Path(__file__).parents[3]
SIZE = (32, 32)
SYSTEM = "foveation_texture"
PLACES = {"a": [(3, 5)], "b": [(8, 24), (30, 2), (8, 24)], "c": [(1, 1), (20, 9)]}
LOOKS = {"a": (3, 5), "b-1": (8, 24), "b-2": (30, 2), "b-3": (8, 24), "c-1": (1, 1), "c-2": (20, 9)}


def spot(images, key, *, fixation=None):
    """A texture's stand-in: noise everywhere, and light where it looks."""
    offsets = [jnp.arange(n) - a for n, a in zip(SIZE, fixation, strict=True)]
    rows, columns = (jnp.exp(-(offset**2) / 2) for offset in offsets)
    light = (rows[:, None] * columns[None])[None, ..., None]
    return jnp.maximum(0.5 * images + 0.2 * jax.random.uniform(key, images.shape), light)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    scenes = np.asarray(render_scenes(jax.random.key(0), np.arange(3), SIZE))
    for name, scene in zip(PLACES, scenes, strict=True):
        write_png(root / f"{name}.png", scene)
    return root


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setitem(SYSTEMS, SYSTEM, spot)


def table(path, places=PLACES):
    lines = [f"{name},{y},{x}" for name, found in places.items() for y, x in found]
    path.write_text("\n".join(["image,y,x", *lines]))
    return str(path)


def config_of(folder, fixations, **fields):
    config = runpy.run_path(str(ROOT / "configs/foveation/transforms.py"))["get_config"]()
    fields = {"systems": ("reference", SYSTEM), "metrics": ("mse",), "batch_size": 2} | fields
    fields |= {"images": str(folder), "size": SIZE, "fixations": fixations}
    for name, value in fields.items():
        config[name] = value
    return config


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """A run over one picture with a fixation and two with scan paths."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, SYSTEM, spot)
        config = config_of(folder, table(out.parent / "at.csv"), records=True, report_images=2)
        return out, config, pictures.run(config, out)


def test_each_look_is_the_transform_there_with_noise_of_its_own(folder, done):
    out, config, results = done
    assert results.pictures == 3
    assert {p.stem for p in (out / SYSTEM).glob("*.png")} == set(LOOKS)
    for look, place in LOOKS.items():
        image = jnp.asarray(read_image(folder / f"{look[0]}.png"))[None]
        key = picture_key(jax.random.key(config.seed), jnp.asarray(name_digests([look])[0]))
        seen = read_image(out / SYSTEM / f"{look}.png")
        assert np.unravel_index(seen[..., 0].argmax(), SIZE) == place
        expected = fj.transform(SYSTEM, image, key, fixation=place)[0]
        np.testing.assert_allclose(seen, expected, atol=0.51 / 255)
    again = [read_image(out / SYSTEM / f"b-{k}.png") for k in (1, 3)]  # the same place twice
    assert np.abs(again[0] - again[1]).mean() > 0.02


def test_rows_are_of_looks_and_the_page_counts_pictures(done):
    out, _, _ = done
    assert [row["image"] for row in read_rows(out / "metrics.jsonl")] == list(LOOKS)
    text = (out / "report.html").read_text()
    assert "see 3 pictures" in text
    assert "6 looks at 3" in text
    assert text.count("<h3>") == 2
    assert text.count('class="look"') == 3
    assert [p.stem for p in (out / "second_seed").glob("*.png")] == ["a"]  # looks differ as it is


def test_a_run_that_was_stopped_goes_on_with_the_looks_that_lack(done, tmp_path):
    out, config, _ = done
    stopped = tmp_path / "stopped"
    shutil.copytree(out, stopped)
    lost = stopped / SYSTEM / "b-2.png"
    lost.unlink()
    kept = (stopped / SYSTEM / "b-1.png").stat().st_mtime_ns
    pictures.run(config, stopped)
    assert lost.read_bytes() == (out / SYSTEM / "b-2.png").read_bytes()
    assert (stopped / SYSTEM / "b-1.png").stat().st_mtime_ns == kept
    assert (stopped / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()


def test_the_order_of_a_path_is_part_of_the_run(done, folder, tmp_path):
    out, _, _ = done
    turned = table(tmp_path / "at.csv", PLACES | {"b": PLACES["b"][1:] + PLACES["b"][:1]})
    with pytest.raises(fj.InputError, match="fixations"):
        pictures.run(config_of(folder, turned, records=True, report_images=2), out)


def test_a_file_that_cannot_be_read_fails_once_whatever_its_looks(folder, tmp_path):
    root = tmp_path / "photographs"
    shutil.copytree(folder, root)
    (root / "b.png").write_bytes(b"no picture")
    results = pictures.run(config_of(root, table(tmp_path / "at.csv")), tmp_path / "run")
    assert results.pictures == 2
    assert list(results.failures) == ["b"]
    assert "b.png: this file is not a picture" in results.failures["b"]


def test_a_look_with_the_name_of_a_picture_is_refused(folder, tmp_path):
    root = tmp_path / "photographs"
    shutil.copytree(folder, root)
    shutil.copy(root / "a.png", root / "b-2.png")
    places = PLACES | {"b-2": [(1, 1)]}
    with pytest.raises(fj.InputError, match="'b' has a scan path whose look 'b-2' has the name"):
        pictures.run(config_of(root, table(tmp_path / "at.csv", places)), tmp_path / "run")
    assert not (tmp_path / "run" / SYSTEM).exists()


def test_a_picture_is_named_with_or_without_the_ending_of_its_file(tmp_path):
    path = tmp_path / "at.csv"
    path.write_text("image,y,x\nb.png,1,2\na.1,3,4\nc,5,6\nb,7,8\nother.png,0,0\nd/e.x.jpg,1,1\n")
    found = read_fixations(path, ["a.1", "b", "c", "d/e.x"], SIZE)
    places = {name: [tuple(at.tolist()) for at in looks] for name, looks in found.items()}
    assert places == {"a.1": [(3, 4)], "b": [(1, 2), (7, 8)], "c": [(5, 6)], "d/e.x": [(1, 1)]}


def test_lines_of_a_path_may_stand_apart_and_labels_go_with_their_looks(folder, tmp_path):
    path = tmp_path / "at.csv"
    path.write_text("image,y,x\nb,1,2\na,3,4\nother,0,0\nb,5,6\n")
    source = open_folder(folder).subset([0, 1])
    found = read_fixations(path, source.names, SIZE)
    looks, places = each_look(source, found)
    assert looks.names == ("a", "b-1", "b-2")
    assert len(looks.labels) == 3
    assert {k: tuple(v) for p in places.values() for k, v in p.items()} == {
        "a": (3, 4), "b-1": (1, 2), "b-2": (5, 6)
    }  # fmt: skip
    np.testing.assert_array_equal(looks.read(2), source.read(1))
    written = pictures.written_pictures(looks, config_of(folder, str(path)), tmp_path, places)
    assert written.picture_of.tolist() == [0, 1, 1]
