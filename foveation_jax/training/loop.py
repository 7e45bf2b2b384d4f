"""Paired training: all runs of one system, to checkpoints and one row of metrics an epoch.

Stage 2 of arXiv 2006.07991: the images are what a system's stage 1 lets through; run v starts from
the same weights and sees the same order of images in every system. A training that was killed goes
on from its last checkpoint and ends with the same weights and rows, bit for bit on CPU.

Rows of metrics.jsonl, where V lists have one number a run:

    {"kind": "epoch", "system", "epoch", "learning_rate", "train_loss": V, "train_accuracy": V,
     "test_loss": V, "test_accuracy": V, "class_accuracy": V x L}
    {"kind": "speed", "system", "epoch", "images_a_second"}

Row E is of the weights after E epochs. Its train values are of epoch E as it went, with dropout,
and null at E = 0; null as well is the accuracy of a class without test images. Speed is over all
runs, and is no part of what can be reproduced.
"""

import collections
import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from foveation_jax.data.labelled import LabelledImages
from foveation_jax.data.order import batches
from foveation_jax.runs.devices import agreed, fetched
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import append_rows, read_rows, write_rows
from foveation_jax.runs.mesh import shard_batch
from foveation_jax.runs.progress import progress
from foveation_jax.training.checkpoints import (
    claim_checkpoints,
    epochs_saved,
    load_latest,
    load_variables,
    not_finite,
    save_latest,
    save_variables,
    system_folder,
)
from foveation_jax.training.optimiser import learning_rate
from foveation_jax.training.prediction import AHEAD, predict, score
from foveation_jax.training.rows import check_rows
from foveation_jax.training.step import Setup, TrainState, init_state, make_step, state_shapes


@dataclasses.dataclass(frozen=True)
class Keeping:
    """What is kept of a training, and how often; changes no result.

    Attributes:
        epochs: after which weights are kept for good; the last one always is.
        seconds: between states to go on from, at least.
        steps: between them as well; 0 for by seconds alone.
    """

    epochs: tuple[int, ...] = ()
    seconds: int | float = 300
    steps: int = 0

    def due(self, step: int, seconds: int | float) -> bool:
        """Whether a state is to be written after `step` steps, `seconds` after the last one."""
        return seconds >= self.seconds or (self.steps > 0 and step % self.steps == 0)


def train(
    setup: Setup,
    system: str,
    images: LabelledImages,
    test: LabelledImages,
    workdir: pathlib.Path,
    keeping: Keeping = Keeping(),
) -> dict[str, Any]:
    """Trains all runs of `system`, or goes on where an earlier call was stopped.

    Args:
        setup: network, recipe, runs, seed and sizes.
        system: stage-1 system that the images come from; names the rows and the folder.
        images: to train on, as the system lets them through unless `setup.perceive` does that.
        test: held-out ones, as the system lets them through.
        workdir: working folder; see checkpoints.py for what is written.
        keeping: which weights are kept, and how often a state to go on from is written.

    Returns:
        The final weights and running statistics, leaves [V, ...], as `load_variables` gives them.

    Raises:
        InputError: `images` are not those of `setup`, `workdir` holds another training or damaged
            files, or a loss or a value of the state is not finite.
    """
    shape = images.images.shape[:3]
    if shape != (setup.n_images, *setup.size):
        raise InputError(
            f"images: there are {shape[0]} of {shape[1]} x {shape[2]}, and the training is set up "
            f"for {setup.n_images} of {setup.size[0]} x {setup.size[1]}."
        )
    claim_checkpoints(workdir, system, setup, images.fingerprint)
    last, length = setup.recipe.all_epochs, setup.steps_per_epoch
    kept, images_a_step = {*keeping.epochs, last}, setup.n_runs * setup.recipe.batch_size
    rows, folder = workdir / "metrics.jsonl", system_folder(workdir, system)
    if last in epochs_saved(workdir, system):
        check_epochs(rows, folder, system, last + 1)
        check_kept(workdir, system, keeping, last)
        return load_variables(workdir, system, last)

    def finish_epoch(epoch, state):
        stop_unless_finite(system, state)
        append_rows(rows, [epoch_row(setup, system, epoch, state, test)])
        if epoch in kept:
            save_variables(workdir, system, epoch, state)

    with progress(f"{system}: training images", setup.steps * images_a_step) as advance:
        done, start = resume(setup, system, rows, folder)
        if not done:
            finish_epoch(0, start)
        check_kept(workdir, system, keeping, done // length)
        if done == setup.steps:  # its weights have been removed
            save_variables(workdir, system, last, start)
        advance(done * images_a_step)
        saved = started = time.monotonic()
        first = done
        for step, state in run_steps(setup, system, start, images, done):
            advance(images_a_step)
            if step % length == 0:
                stop_if_diverged(setup, system, state)
                speed = (step - first) * images_a_step / (time.monotonic() - started)
                finish_epoch(step // length, state)
                append_rows(rows, [speed_row(system, step // length, speed)])
                started, first = time.monotonic(), step
            if step == setup.steps or agreed(keeping.due(step, time.monotonic() - saved)):
                stop_if_diverged(setup, system, state)
                stop_unless_finite(system, state)
                save_latest(folder / "latest", step, state)
                saved = time.monotonic()
    return load_variables(workdir, system, last)


def resume(
    setup: Setup, system: str, rows: pathlib.Path, folder: pathlib.Path
) -> tuple[int, TrainState]:
    """(steps done, state after them); `rows` then holds the epochs up to there, and no other.

    Raises:
        InputError: the state is damaged, or a row is missing.
    """
    found = load_latest(folder / "latest", lambda: state_shapes(setup), folder)
    done, state = found or (0, init_state(setup))
    epochs = done // setup.steps_per_epoch + 1 if done else 0
    drop_rows(rows, system, after=epochs - 1)
    check_epochs(rows, folder, system, epochs)
    return done, state


def run_steps(
    setup: Setup, system: str, state: TrainState, images: LabelledImages, done: int
) -> Iterator[tuple[int, TrainState]]:
    """(steps done, state) after each step to the end; the next step takes the state's memory.

    The host keeps a few steps ahead of the device and reads each loss when it is there anyway.

    Raises:
        InputError: a loss is not finite.
    """
    step_function, mesh = make_step(setup), setup.mesh
    waiting = collections.deque()
    stream = batches(images, setup.seed, setup.n_runs, setup.recipe.batch_size, done)
    for step, batch in zip(range(done + 1, setup.steps + 1), stream, strict=False):
        state, losses = step_function(state, *shard_batch(batch, mesh))
        waiting.append(losses)
        if len(waiting) > AHEAD and not np.isfinite(fetched(waiting.popleft())).all():
            stop_if_diverged(setup, system, state)
        yield step, state


def stop_if_diverged(setup: Setup, system: str, state: TrainState) -> None:
    """Raises InputError if a loss was not finite, with the run, the step and the culprit."""
    diverged = fetched(state.diverged_at)
    if (diverged >= 0).any():
        run = int(np.argmin(np.where(diverged < 0, np.iinfo(np.int32).max, diverged)))
        raise divergence(setup, system, state, run, int(diverged[run]), "loss")


def stop_unless_finite(system: str, state: TrainState) -> None:
    """Raises InputError for a value of the state that is no finite number, with its place."""
    if found := not_finite(state):
        name, run = found
        raise InputError(
            f"training: {system}, run {run}: {name} is not finite after step "
            f"{int(fetched(state.step)[run])}; lower learning_rates."
        )


def divergence(
    setup: Setup, system: str, state: TrainState, run: int, step: int, loss: str
) -> InputError:
    """That `loss` of a run is not finite at a step, with its largest weight and its rate."""
    name, weight = largest_weight(state, run)
    rate = float(learning_rate(setup.recipe, (step - 1) // setup.steps_per_epoch))
    return InputError(
        f"training: {system}, run {run}: the {loss} is not finite at step {step}; the largest "
        f"weight is {weight:.3g}, in {name}, at learning rate {rate:.3g}; lower learning_rates"
        f"{', or look at what stage 1 makes of the images' if setup.perceive else ''}."
    )


def largest_weight(state: TrainState, run: int) -> tuple[str, float]:
    """Name of the parameter with the largest absolute weight, NaN above all, and that weight."""

    def size(leaf):
        largest = float(np.max(np.abs(fetched(leaf)[run])))
        return math.inf if math.isnan(largest) else largest

    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    path, leaf = max(leaves, key=lambda item: size(item[1]))
    return jax.tree_util.keystr(path, simple=True, separator="/"), size(leaf)


def epoch_row(
    setup: Setup, system: str, epoch: int, state: TrainState, test: LabelledImages
) -> dict[str, Any]:
    """The row of the weights after `epoch` epochs; see the module's docstring.

    Raises:
        InputError: the test loss of a run is not finite.
    """
    images, rate = setup.steps_per_epoch * setup.recipe.batch_size, None
    train_loss = train_accuracy = [None] * setup.n_runs
    if epoch:
        rate = float(learning_rate(setup.recipe, epoch - 1))
        train_loss = (fetched(state.loss_sum).astype(float) / setup.steps_per_epoch).tolist()
        train_accuracy = (fetched(state.correct) / images).tolist()
    logits = predict(setup.network, state.variables, test.images, setup.recipe.batch_size)
    tested = score(logits, test.labels)
    if not np.isfinite(tested.loss).all():
        run = int(np.argmin(np.isfinite(tested.loss)))
        raise divergence(setup, system, state, run, int(fetched(state.step)[run]), "test loss")
    by_class = tested.class_accuracy.astype(object)
    by_class[np.isnan(tested.class_accuracy)] = None
    return {
        "kind": "epoch",
        "system": system,
        "epoch": epoch,
        "learning_rate": rate,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": tested.loss.tolist(),
        "test_accuracy": tested.accuracy.tolist(),
        "class_accuracy": by_class.tolist(),
    }


def speed_row(system: str, epoch: int, images_a_second: float) -> dict[str, Any]:
    """The row of how fast an epoch went, with compilation in the first one of a session."""
    return {
        "kind": "speed",
        "system": system,
        "epoch": epoch,
        "images_a_second": round(images_a_second, 2),
    }


def check_kept(workdir: pathlib.Path, system: str, keeping: Keeping, passed: int) -> None:
    """Raises InputError for an epoch to keep that `system` has passed without keeping it."""
    kept = epochs_saved(workdir, system)
    for epoch in keeping.epochs:
        if epoch <= passed and epoch not in kept:
            raise InputError(
                f"keep_epochs has {epoch}, which the training of {system} in {workdir} has passed "
                f"without keeping it; allowed are {', '.join(map(str, kept))} and those after "
                f"{passed}."
            )


def drop_rows(path: pathlib.Path, system: str, after: int) -> None:
    """Takes the rows of `system` from epochs above `after`, which are to be made again, out."""
    rows = read_rows(path)
    kept = [row for row in rows if row.get("system") != system or row.get("epoch", -1) <= after]
    if len(kept) < len(rows):
        write_rows(path, kept)


def check_epochs(path: pathlib.Path, folder: pathlib.Path, system: str, count: int) -> None:
    """Raises InputError unless `path` has a row of each of the first `count` epochs of `system`."""
    rows = [r for r in read_rows(path) if r.get("kind") == "epoch" and r["system"] == system]
    remedy = f"remove {folder} to train it again"
    check_rows(path, f"{system}, epoch", [row["epoch"] for row in rows], range(count), remedy)
