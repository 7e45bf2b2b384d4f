"""Training to disk: kill -9 and go on, paired systems, checkpoints that must be refused."""

import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from foveation_jax import checkpoints, training
from foveation_jax.data.labelled import LabelledImages
from foveation_jax.data.order import batches
from foveation_jax.errors import InputError
from foveation_jax.runs import runs_mesh, shard_runs
from foveation_jax.train_step import init_state, make_step
from tests.foveation import tiny_training as tiny

STEPS = tiny.setup().steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two systems trained in one working folder, without a stop."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(workdir)
    darker = tiny.images()
    darker = LabelledImages(darker.images // 2, darker.labels, darker.class_names, "darker")
    training.train(tiny.setup(), "dark", darker, tiny.images(12, 1), workdir, tiny.KEEPING)
    return workdir


def train(workdir, **changes):
    test = tiny.images(12, 1)
    return training.train(
        tiny.setup(**changes), "reference", tiny.images(), test, workdir, tiny.KEEPING
    )


def epoch_rows(workdir, system="reference"):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "epoch" and row["system"] == system]


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def run_until_killed(workdir, cache, at_step):
    """Trains in a process of its own and kills it when step `at_step` is done; None: to the end."""
    command = [sys.executable, "-m", "tests.foveation.tiny_training", str(workdir), str(cache)]
    root = pathlib.Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, env=os.environ, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if at_step is not None and int(line) >= at_step:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == (0 if at_step is None else -signal.SIGKILL)


def test_killed_three_times_it_ends_as_if_undisturbed(undisturbed, tmp_path):
    cache = tmp_path / "cache"
    moments = sorted(random.sample(range(1, STEPS), 3))
    for moment in moments:
        run_until_killed(tmp_path, cache, moment)
    run_until_killed(tmp_path, cache, None)
    assert epoch_rows(tmp_path) == epoch_rows(undisturbed), moments
    for epoch in (0, 2, 4):
        ours, theirs = (
            checkpoints.load_variables(folder, "reference", epoch)
            for folder in (tmp_path, undisturbed)
        )
        assert_equal(ours, theirs)


def test_systems_start_from_the_same_weights_and_go_apart(undisturbed):
    first, last = (
        [checkpoints.load_variables(undisturbed, s, e) for s in ("reference", "dark")]
        for e in (0, 4)
    )
    assert_equal(*first)
    assert np.any(last[0]["params"]["fc"]["kernel"] != last[1]["params"]["fc"]["kernel"])
    assert_equal(first[0], init_state(tiny.setup()).variables)


def test_rows_and_kept_epochs(undisturbed):
    assert checkpoints.epochs_saved(undisturbed, "reference") == (0, 2, 4)
    assert checkpoints.epochs_saved(undisturbed, "another") == ()
    rows = epoch_rows(undisturbed)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["train_loss"] == [None, None]
    np.testing.assert_allclose([r["learning_rate"] for r in rows[1:]], [0.1, 0.1, 0.02, 0.02])
    assert np.shape(rows[4]["class_accuracy"]) == (tiny.RUNS, tiny.CLASSES)
    assert min(rows[4]["test_accuracy"]) > 0.8  # of colours that one layer can tell apart


def test_train_values_are_means_over_the_epoch(undisturbed):
    setup, losses = tiny.setup(), []
    stream = batches(tiny.images(), setup.seed, tiny.RUNS, tiny.BATCH, 0)
    state = init_state(setup)
    for step, batch in zip(range(2 * setup.steps_per_epoch), stream, strict=False):
        state, loss = make_step(setup)(state, *shard_runs(batch, runs_mesh(tiny.RUNS)))
        if step >= setup.steps_per_epoch:
            losses.append(np.asarray(loss))
    row = epoch_rows(undisturbed)[2]
    np.testing.assert_allclose(row["train_loss"], np.mean(losses, 0), rtol=1e-6)
    images = setup.steps_per_epoch * tiny.BATCH
    np.testing.assert_array_equal(row["train_accuracy"], np.asarray(state.correct) / images)


def test_a_finished_training_is_found(undisturbed):
    before = contents(undisturbed)
    variables = train(undisturbed)
    assert_equal(variables, checkpoints.load_variables(undisturbed, "reference", 4))
    assert contents(undisturbed).keys() == before.keys()
    rows = undisturbed / "metrics.jsonl"
    assert rows.read_bytes() == before[rows]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": tiny.TinyNetwork(features=7)}, "network.features=6, not 7"),
        ({"momentum": 0.5}, "momentum=0.9, not 0.5"),
        ({"seed": 2}, "seed=1, not 2"),
        ({"n_runs": 3}, "n_runs=2, not 3"),
    ],
)
def test_checkpoints_of_another_training_are_refused(undisturbed, changes, sentence):
    before = contents(undisturbed)
    with pytest.raises(InputError, match=rf"of a training with {sentence}; name another --workdir"):
        train(undisturbed, **changes)
    assert contents(undisturbed) == before


def test_an_epoch_that_is_not_kept_is_refused(undisturbed):
    with pytest.raises(InputError, match=r"has no epoch 3; it has 0, 2, 4\.$"):
        checkpoints.load_variables(undisturbed, "reference", 3)
    with pytest.raises(InputError, match=r"has no epoch 0; it has none\.$"):
        checkpoints.load_variables(undisturbed, "another", 0)


# orbax leaves coroutines behind where it fails, which complain when they are collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoints_are_refused(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    folder = checkpoints.system_folder(tmp_path, "reference")
    for part in (folder / "epochs" / "4", *(folder / "latest").iterdir()):
        for path in part.rglob("d/*"):
            path.unlink()
    for name in ("epochs/4", "latest/21"):
        with pytest.raises(InputError, match=rf"the checkpoint .*{name} is damaged .*; remove it"):
            train(tmp_path)
        shutil.rmtree(folder / name)
    gc.collect()
