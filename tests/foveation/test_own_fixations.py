"""An experiment whose images are looked at where a file says: to the weights, and bad input."""

import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foveation_jax import pipeline
from foveation_jax.data import write_png
from foveation_jax.runs.errors import InputError
from foveation_jax.training import loop
from foveation_jax.training.checkpoints import load_variables
from foveation_jax.transforms import SYSTEMS
from tests.foveation import tiny_training as tiny

SMOKE = Path(__file__).parents[2] / "configs" / "foveation" / "smoke.py"
NAMES = [
    f"{split}/{name}/{n}"
    for split, count in (("train", 4), ("test", 1)) for name in "ab" for n in range(count)
]  # fmt: skip
PLACES = {name: [(n, 15 - n), (2 * n % 16, 3)] for n, name in enumerate(NAMES)}
FIRST = {name: places[:1] for name, places in PLACES.items()}


def spot(images, key, *, fixation=None):
    """White where it looks, black elsewhere."""
    rows, columns = (jnp.arange(16) == a for a in fixation)
    return (rows[:, None] & columns[None])[None, ..., None] * jnp.ones_like(images)


class TrainedError(Exception):
    """What ends a run after its training."""


@pytest.fixture(scope="module", autouse=True)
def _small():
    """A system that sees nothing but where it looks, a tiny network, and no probes."""

    def gather(*_):
        raise TrainedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "spot", spot)
        patch.setattr(pipeline, "gather", gather)
        patch.setattr(pipeline, "config_network", lambda *_: tiny.TinyNetwork(2))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(NAMES):
        write_png(root / f"{name}.png", np.full((16, 16, 3), number / 20))
    return root


def table(path, places):
    lines = [f"{name}.png,{y},{x}" for name, own in places.items() for y, x in own]
    path.write_text("\n".join(["image,y,x", *lines]))
    return str(path)


def train(data, out, places, **changes):
    """The weights after a run's training."""
    config = runpy.run_path(str(SMOKE))["get_config"]().unlock()
    config.update(data=str(data), size=tiny.SIZE, systems=("spot",), keep_epochs=(), keep_seconds=0)
    config.recipe.update(epochs=2, batch_size=4)
    config.stage1.update(when="on_the_fly", fixations=table(out.parent / f"{out.name}.csv", places))
    config.update_from_flattened_dict(changes)
    with pytest.raises(TrainedError):
        pipeline.run(config.lock(), out)
    return load_variables(out, "spot", 2)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Folder of three runs, and their weights."""
    out = tmp_path_factory.mktemp("runs")
    return out, {
        "one": train(data, out / "one", FIRST),
        "beforehand": train(data, out / "beforehand", FIRST, **{"stage1.when": "beforehand"}),
        "several": train(data, out / "several", PLACES),
    }


def far(a, b):
    gaps = jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - y).max()), a, b)
    return max(jax.tree.leaves(gaps))


def test_of_one_place_each_steps_see_what_is_made_beforehand(trained):
    """And of several, one that may be another; test images are seen from the first line."""
    out, weights = trained
    assert far(weights["one"], weights["beforehand"]) < 1e-5
    assert far(weights["one"], weights["several"]) > 1e-3
    for name in weights:
        seen = np.load(out / name / "perceived" / "spot" / "test.npy")[..., 0]
        found = [np.unravel_index(image.argmax(), (16, 16)) for image in seen]
        assert found == [PLACES["test/a/0"][0], PLACES["test/b/0"][0]]


def test_of_images_that_are_left_out_so_are_the_fixations(trained, data, tmp_path):
    holed, out = shutil.copytree(data, tmp_path / "data"), tmp_path / "out"
    for name in ("train/a/1", "train/b/0"):
        (holed / f"{name}.png").write_bytes(b"no picture")
    train(holed, out, FIRST, unreadable="skip", **{"stage1.when": "beforehand"})
    seen, whole = (
        np.load(run / "perceived" / "spot" / "train.npy")
        for run in (out, trained[0] / "beforehand")
    )
    np.testing.assert_array_equal(seen, whole[[0, 2, 3, 5, 6, 7]])


def test_a_run_that_was_stopped_ends_with_the_same_weights(trained, data, tmp_path, monkeypatch):
    run_steps = loop.run_steps

    def stopped(*arguments):
        for step, state in run_steps(*arguments):
            if step == 3:
                raise KeyboardInterrupt
            yield step, state

    monkeypatch.setattr(loop, "run_steps", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "out", PLACES)
    monkeypatch.setattr(loop, "run_steps", run_steps)
    again = train(data, tmp_path / "out", PLACES)
    assert far(again, trained[1]["several"]) == 0


def test_a_file_that_was_changed_is_another_run(trained, data):
    out, _ = trained
    sentence = r"one\.csv names has changed since; name another --workdir"
    with pytest.raises(InputError, match=rf"what stage1\.fixations=.*{sentence}"):
        train(data, out / "one", PLACES)
    train(data, out / "one", FIRST)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"stage1.fixation": (3.0, 4.0)},
            r"stage1\.fixation is \(3\.0, 4\.0\); with .*out\.csv it",
        ),
        ({"stage1.eye_movements": "uniform"}, r"eye_movements, with .*, is 'uniform'; allowed are"),
        ({"stage1.fixations": "nowhere.csv"}, r"fixations: nowhere\.csv cannot be read"),
        ({}, r"none for 1 of 10 pictures, such as 'test/b/0'"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_made(data, tmp_path, changes, sentence):
    places = {name: own for name, own in FIRST.items() if name != "test/b/0"}
    with pytest.raises(InputError, match=sentence) as error:
        train(data, tmp_path / "out", places, **changes)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").rglob("*.npy"))
