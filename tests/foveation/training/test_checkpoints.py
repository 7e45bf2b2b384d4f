"""Training to disk: kill -9 and go on, paired systems, checkpoints that must be refused."""

import functools
import gc
import itertools
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

from foveation_jax.data.labelled import LabelledImages
from foveation_jax.data.order import batches
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import runs_mesh, shard_runs
from foveation_jax.training import checkpoints, loop
from foveation_jax.training.step import init_state, make_step, state_shapes
from tests.foveation import tiny_training as tiny

STEPS = tiny.setup().steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two systems trained in one working folder, without a stop."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(workdir)
    darker = tiny.images()
    darker = LabelledImages(darker.images // 2, darker.labels, darker.class_names, "darker")
    loop.train(tiny.setup(), "dark", darker, tiny.images(12, 1), workdir, tiny.KEEPING)
    return workdir


def train(workdir, **changes):
    test = tiny.images(12, 1)
    return loop.train(
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
    """Trains in a process of its own and kills it when step `at_step` is done."""
    command = [sys.executable, "-m", "tests.foveation.tiny_training", str(workdir), str(cache)]
    root = pathlib.Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, env=os.environ, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if int(line) >= at_step:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_killed_three_times_it_ends_as_if_undisturbed(undisturbed, tmp_path):
    cache = tmp_path / "cache"
    moments = sorted(random.sample(range(1, STEPS), 3))
    for moment in moments:
        run_until_killed(tmp_path, cache, moment)
    train(tmp_path)
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


def test_a_finished_training_goes_on_by_more_epochs_as_if_it_had_not_stopped(tmp_path):
    extended, whole = tmp_path / "extended", tmp_path / "whole"
    train(extended)
    train(extended, more_epochs=1)
    train(extended, more_epochs=3)
    train(whole, more_epochs=3)
    assert checkpoints.epochs_saved(extended, "reference") == (0, 2, 4, 5, 7)
    assert epoch_rows(extended) == epoch_rows(whole)
    assert [row["learning_rate"] for row in epoch_rows(whole)[4:]] == pytest.approx([0.02] * 4)
    found, wanted = (checkpoints.load_variables(w, "reference", 7) for w in (extended, whole))
    assert_equal(found, wanted)
    with pytest.raises(InputError, match="more_epochs=3, not 1; name another --workdir"):
        train(extended, more_epochs=1)


@pytest.mark.parametrize("more", [0, 1])
def test_an_epoch_that_was_passed_cannot_be_kept_any_more(more, undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    keeping = loop.Keeping(epochs=(0, 3))
    sets = tiny.images(), tiny.images(12, 1)
    with pytest.raises(InputError, match=r"keep_epochs has 3, .* reference .* are 0, 2, 4 and"):
        loop.train(tiny.setup(more_epochs=more), "reference", *sets, workdir, keeping)
    keeping = loop.Keeping(epochs=(2, 4 + more))
    loop.train(tiny.setup(more_epochs=more), "reference", *sets, workdir, keeping)


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


def test_final_weights_that_were_removed_are_those_of_the_final_state(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(checkpoints.system_folder(tmp_path, "reference") / "epochs" / "4")
    assert_equal(train(tmp_path), checkpoints.load_variables(undisturbed, "reference", 4))


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
    for name in ("epochs/4", f"latest/{STEPS}"):
        sentence = (
            rf"the checkpoint .*{name} is damaged .*; remove .*reference to train it again\.$"
        )
        with pytest.raises(InputError, match=sentence):
            train(tmp_path)
        shutil.rmtree(folder / name)
    gc.collect()


def stopped_after(last, run_steps=loop.run_steps):
    """`run_steps` as it is where a training is stopped."""

    def some(*arguments):
        yield from itertools.takewhile(lambda made: made[0] <= last, run_steps(*arguments))
        raise KeyboardInterrupt

    return some


def spoil(content, random):
    """Content that is cut, emptied, longer, junk, or another by one bit, somewhere."""
    at = random.randrange(max(1, len(content)))
    ways = [content[:at], b"", content + b"\0", random.randbytes(len(content) or 9)]
    if content:
        ways.append(
            content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
        )
    return random.choice([way for way in ways if way != content])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("finished", [True, False])
def test_any_damage_is_a_sentence_or_harmless(undisturbed, tmp_path, finished, monkeypatch):
    """Twelve times a file, drawn at random, is damaged at a random place, or lost."""
    left = shutil.copytree(undisturbed, tmp_path / "left")
    if not finished:
        shutil.rmtree(left)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "run_steps", stopped_after(STEPS - 2))
            with pytest.raises(KeyboardInterrupt):
                train(left)
    ours = checkpoints.system_folder(left, "reference")
    files = [left / "metrics.jsonl", *sorted(p for p in ours.rglob("*") if p.is_file())]
    random_, refused = random.Random(finished), 0
    for number in range(12):
        folder = shutil.copytree(left, tmp_path / str(number))
        path = folder / random_.choice(files).relative_to(left)
        if number % 4 == 3:
            path.unlink()
        else:
            path.write_bytes(spoil(path.read_bytes(), random_))
        sentence = None
        try:
            train(folder)
            found = [checkpoints.load_variables(folder, "reference", e) for e in (0, 2, 4)]
        except InputError as error:
            sentence = str(error)
        if sentence is not None:
            assert "\n" not in sentence
            assert path.name in sentence or "checkpoint " in sentence
            refused += 1
            continue
        for epoch, variables in zip((0, 2, 4), found, strict=True):
            assert_equal(variables, checkpoints.load_variables(undisturbed, "reference", epoch))
        assert epoch_rows(folder) == epoch_rows(undisturbed)
    assert refused > 5
    gc.collect()


def test_rows_lost_in_the_middle_are_missed(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    rows = tmp_path / "metrics.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    for number, sentence in ((0, "no rows of reference, epoch 0"), (1, "no rows of .*, epoch 1")):
        rows.write_bytes(b"".join([*lines[:number], lines[number][:40], *lines[number:][1:]]))
        with pytest.raises(
            InputError, match=rf"metrics\.jsonl is damaged: it has {sentence}; remove"
        ):
            train(tmp_path)
    rows.write_bytes(b"".join([*lines, lines[0]]))
    with pytest.raises(InputError, match=r"it has 2 rows of reference, epoch 0"):
        train(tmp_path)
    rows.write_bytes(b"".join(lines) + lines[0][:-5])  # as a kill leaves it
    train(tmp_path)
    assert rows.read_bytes() == b"".join(lines)


def poisoned(state, random_):
    """The state with one number, drawn at random, that is not finite; and the array's name."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    floats = [i for i, (_, leaf) in enumerate(leaves) if leaf.dtype == np.float32]
    chosen = random_.choice(floats)
    path, leaf = leaves[chosen]
    values = np.array(leaf)
    values.flat[random_.randrange(values.size)] = random_.choice([np.nan, np.inf, -np.inf])
    arrays = [leaf for _, leaf in leaves]
    arrays[chosen] = jax.device_put(values, leaf.sharding)
    return tree.unflatten(arrays), jax.tree_util.keystr(path, simple=True, separator="/")


def test_a_value_that_is_not_finite_is_never_written_or_read(tmp_path, monkeypatch):
    """Thirty places drawn at random: in memory, and on disk."""
    state, random_ = init_state(tiny.setup()), random.Random(0)
    shapes = functools.partial(state_shapes, tiny.setup())
    for number in range(30):
        spoilt, name = poisoned(state, random_)
        assert checkpoints.not_finite(spoilt)[0] == name
        if number >= 10:
            continue
        with pytest.raises(InputError, match=rf"latest/3 is not written: {name} is not finite\.$"):
            checkpoints.save_latest(tmp_path / "latest", 3, spoilt)
        assert not list(tmp_path.rglob("files.json"))
    for number in range(4):
        spoilt, name = poisoned(state, random_)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "not_finite", lambda tree: None)
            checkpoints.save_latest(tmp_path / "latest", number, spoilt)
        with pytest.raises(InputError, match=rf"{name} in the checkpoint .* is not finite; remove"):
            checkpoints.load_latest(tmp_path / "latest", shapes, tmp_path)


def test_a_state_that_stops_being_finite_ends_the_training(tmp_path, monkeypatch):
    """Eight places of arrays and steps, drawn at random."""
    random_, make_step = random.Random(1), loop.make_step
    for number in range(8):
        at, names, steps = random_.randrange(1, STEPS + 1), [], iter(range(1, STEPS + 1))

        def step(*arguments, at=at, names=names, steps=steps):
            state, loss = make_step(tiny.setup())(*arguments)
            if next(steps) == at:
                state, name = poisoned(state, random_)
                names.append(name)
            return state, loss

        monkeypatch.setattr(loop, "make_step", lambda setup, step=step: step)
        with pytest.raises(InputError, match=r"^training: reference, run [01]: .* is not finite"):
            train(tmp_path / str(number))
        assert 4 not in checkpoints.epochs_saved(tmp_path / str(number), "reference"), names


def test_an_image_that_stage_1_spoils_within_a_step_ends_the_training(tmp_path):
    def see(images, key):  # one pixel, in about every second step
        levels = images.astype(np.float32)
        spoilt = jax.random.randint(key, (), 0, 2) == 0
        return levels.at[1, 3, 5, 2].set(jax.numpy.where(spoilt, np.nan, levels[1, 3, 5, 2]))

    setup = tiny.setup(perceive=see)
    sentence = "the loss is not finite at step .* or look at what stage 1 makes of the images"
    with pytest.raises(InputError, match=sentence):
        loop.train(setup, "seen", tiny.images(), tiny.images(12, 1), tmp_path, tiny.KEEPING)
