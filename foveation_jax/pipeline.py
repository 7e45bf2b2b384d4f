"""The whole story of arXiv 2006.07991, from a config to the verdicts: read this file first.

images -> transform -> network -> probe -> analysis -> report

Every stage leaves its result in the working folder and is found there by the next run:

    images/SPLIT.npy             the data set, decoded
    perceived/SYSTEM/SPLIT.npy   what each system's stage 1 lets through
    checkpoints/SYSTEM/          weights of all runs; metrics.jsonl has a row an epoch and system
    probes/SYSTEM-EPOCH.npz      curves and confusion matrices of the networks after EPOCH epochs
    results.json, *.csv          every number and every verdict; report.html shows them
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from foveation_jax.claims import verdicts
from foveation_jax.claims.results import History, ProbeResults
from foveation_jax.claims.results_files import mean_accuracy, write_results
from foveation_jax.config import check_fixation, check_size, systems_experiment
from foveation_jax.data.images import FITS
from foveation_jax.data.labelled import (
    TEST,
    TRAIN,
    UNREADABLE,
    VALIDATION,
    LabelledImages,
    open_labelled,
)
from foveation_jax.jobs.workdir import check_workdir, claim_workdir, code_of, fingerprints
from foveation_jax.metrics import METRICS, metrics_that_fit
from foveation_jax.networks import first_layer_filters, make_network
from foveation_jax.probes.battery import Battery, load_battery, run_battery, save_battery
from foveation_jax.probes.evaluate import PROBES, mean_colour
from foveation_jax.probes.perceptual import perceptual_panel
from foveation_jax.report import experiment_page
from foveation_jax.report.samples import sample_strips
from foveation_jax.runs.checks import Allowed, Range, check_all, check_allowed
from foveation_jax.runs.command import check_values
from foveation_jax.runs.devices import fetched
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import read_record, read_rows
from foveation_jax.runs.lock import one_at_a_time
from foveation_jax.stage1.perceived import EYE_MOVEMENTS, Perceive
from foveation_jax.stage1.systems import Seen, look
from foveation_jax.training.checkpoints import epochs_saved, load_variables, weights_crc32
from foveation_jax.training.loop import Keeping, train
from foveation_jax.training.optimiser import Recipe
from foveation_jax.training.step import Setup
from foveation_jax.transforms import SYSTEMS
from foveation_jax.transforms.matched import Match
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

REFERENCE = "reference"
LIMITS: dict[str, Allowed] = {
    "fit": FITS,
    "unreadable": UNREADABLE,
    "runs": Range(1),
    "seed": Range(0),
    "keep_seconds": Range(0),
    "probe_images": Range(0),
    "probe_every": Range(1),
    "dynamics_images": Range(0),
    "dynamics_every": Range(1),
    "report_images": Range(0),
    "systems": SYSTEMS,
    "metrics": METRICS,
    "stage1.when": ("beforehand", "on_the_fly"),
    "stage1.soft": Range(0, 2),
    "stage1.match_images": Range(1),
    "stage1.match_tolerance": Range(0, 1, open=(0, 1)),
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run made.

    Attributes:
        accuracy: system -> mean test accuracy on its own transform.
        verdicts: claim -> verdict.
        report: path of the page.
        matches: blur -> split -> its sigmas and the gap achieved there.
    """

    accuracy: dict[str, float]
    verdicts: dict[str, str]
    report: pathlib.Path
    matches: Mapping[str, Mapping[str, Match]] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """What the command prints at the end; the page's path comes last."""
        accuracies = [
            f"{name}: {value:.3f} of the test images" for name, value in self.accuracy.items()
        ]
        counted = [
            f"{list(self.verdicts.values()).count(verdict)} {verdict}"
            for verdict in ("holds", "fails", "undecided")
        ]
        gaps = [
            f"{split} images, {match.sentence()}"
            for splits in self.matches.values()
            for split, match in splits.items()
        ]
        return [*accuracies, *gaps, f"claims: {', '.join(counted)}", f"report: {self.report}"]


@one_at_a_time
def run(config: ConfigDict, workdir: pathlib.Path) -> Finished:
    """Trains paired networks on what each system lets through, probes them, judges the claims.

    Args:
        config: as `config.systems_experiment` makes it.
        workdir: stages finished there are not done again.

    Raises:
        InputError: a config or data that cannot be used, or a folder of another experiment.
    """
    check_config(config)
    sources = fingerprints(workdir, named_files(config))
    check_workdir(workdir, config, sources)
    data = open_data(config, workdir)
    claim_workdir(workdir, config, sources)
    seen = look(config, data, workdir)
    keeping = Keeping(tuple(config.keep_epochs), config.keep_seconds)
    for name, system in seen.items():
        images = system.splits.get(TRAIN, data[TRAIN])
        setup = set_up(config, images, system.see)
        train(setup, name, images, system.splits[TEST], workdir, keeping)
    results = gather(config, seen, workdir, data)
    table = verdicts.judge(results)
    write_results(results, table, workdir)
    page = experiment_page.write_report(results, table, workdir)
    reached: dict[str, str] = {claim.name: claim.verdict for claim in table.claims}
    return Finished(mean_accuracy(results), reached, page, results.matches)


def check_config(config: ConfigDict) -> None:
    """Refuse what cannot be run before any work is done; parts check their own when they are made.

    Raises:
        InputError: a field, its value, and what is allowed.
    """
    check_values(config, systems_experiment())
    check_looks(config.stage1)
    if not config.data:
        raise InputError("data is empty: name a folder, tfds:NAME, or synthetic.")
    check_size(config.size)
    epochs = Range(0, config_recipe(config).all_epochs)
    check_all(config, LIMITS | {"keep_epochs": epochs})
    if not config.systems:
        raise InputError(f"systems is empty: name one or more of {', '.join(SYSTEMS)}.")
    check_network(config)


def check_looks(stage1: ConfigDict) -> None:
    """Raises InputError unless fixations come from one place: a field, eye movements or a file."""
    check_fixation(stage1.fixation)
    if stage1.fixations and stage1.fixation is not None:
        raise InputError(
            f"stage1.fixation is {tuple(stage1.fixation)}; with stage1.fixations={stage1.fixations}"
            " it must be unset: each image has its own."
        )
    told = "stage1.eye_movements"
    check_allowed(told, stage1.eye_movements, EYE_MOVEMENTS)
    if stage1.fixations:
        check_allowed(f"{told}, with stage1.fixations,", stage1.eye_movements, ("fixed",))
    if stage1.when == "beforehand":  # where every image is seen once, from one place
        check_allowed(f"{told}, with stage1.when=beforehand,", stage1.eye_movements, ("fixed",))


def named_files(config: ConfigDict) -> dict[str, list[pathlib.Path]]:
    """Field of `config` -> files that it names, on which all results rest; data has its own."""
    path = config.stage1.fixations
    return code_of(config.systems) | ({"stage1.fixations": [pathlib.Path(path)]} if path else {})


def config_recipe(config: ConfigDict) -> Recipe:
    """The config's recipe; raises InputError for a field out of range."""
    fields: dict[str, Any] = dict(config.recipe)
    fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return Recipe(**fields)


def config_network(config: ConfigDict, n_classes: int) -> nn.Module:
    """The config's network."""
    options = {} if config.dropout is None else {"dropout": config.dropout}
    return make_network(config.network, n_classes, width=config.width, **options)


def check_network(config: ConfigDict) -> None:
    """Raises InputError for options out of range, and for images too small for the network."""
    network = config_network(config, 2)
    image = jax.ShapeDtypeStruct((1, *config.size, 3), np.float32)
    jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), image)


def open_data(config: ConfigDict, workdir: pathlib.Path) -> dict[str, LabelledImages]:
    """Split -> images and labels of the config's data set."""
    return open_labelled(
        config.data,
        tuple(config.size),
        workdir / "images",
        seed=config.seed,
        data_dir=config.data_dir or None,
        classes=tuple(config.classes),
        limit_train=config.limit_train,
        limit_test=config.limit_test,
        fit=config.fit,
        fixations=config.stage1.fixations,
        unreadable=config.unreadable,
    )


def set_up(config: ConfigDict, images: LabelledImages, see: Perceive | None) -> Setup:
    """The training of one system on `images`, which `see` (if any) shows it."""
    return Setup(
        network=config_network(config, len(images.class_names)),
        recipe=config_recipe(config),
        n_runs=config.runs,
        seed=config.seed,
        n_images=len(images.images),
        size=tuple(config.size),
        perceive=see,
    )


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the networks are probed with.

    Attributes:
        images: system -> held-out images as it lets them through, levels [N, Y, X, 3].
        labels: classes of the images, [N].
        class_names: L names.
        colours: system -> mean colour in [0, 1] of what it lets through, of high-pass stimuli.
        windows: pooling windows of the images' size.
        fingerprints: system -> what tells its images from others.
    """

    images: dict[str, np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    colours: dict[str, np.ndarray]
    windows: PoolingWindows
    fingerprints: dict[str, str]


def show(config: ConfigDict, seen: Mapping[str, Seen]) -> Shown:
    """The test images as every system sees them; colours are of "val" where the data has it."""
    tests = {name: system.splits[TEST] for name, system in seen.items()}
    first = next(iter(tests.values()))
    windows = pooling_windows(
        config.stage1.scale,
        tuple(config.size),
        config.stage1.fixation,
        published=config.stage1.published,
        field_of_view=config.stage1.field_of_view,
    )
    return Shown(
        images={name: test.images for name, test in tests.items()},
        labels=first.labels,
        class_names=first.class_names,
        colours={
            name: mean_colour(system.splits.get(VALIDATION, tests[name]).images)
            for name, system in seen.items()
        },
        windows=windows,
        fingerprints={name: test.fingerprint for name, test in tests.items()},
    )


def gather(
    config: ConfigDict,
    seen: Mapping[str, Seen],
    workdir: pathlib.Path,
    data: Mapping[str, LabelledImages],
) -> ProbeResults:
    """Everything that is measured of the trained networks, and of what they see."""
    shown, looked = show(config, seen), data[TEST].fixations
    final = [probe(config, shown, name, None, workdir) for name in seen]
    return ProbeResults(
        systems=tuple(seen),
        class_names=shown.class_names,
        network=config.network,
        curves=tuple(curve for battery in final for curve in battery.curves),
        dynamics={
            epoch: tuple(c for n in seen for c in probe(config, shown, n, epoch, workdir).curves)
            for epoch in sorted(config.keep_epochs)
        },
        confusion=tuple(matrix for battery in final for matrix in battery.confusion),
        perceptual=perceptual(config, shown.images),
        matches={name: system.matches for name, system in seen.items() if system.matches},
        training=histories(seen, workdir),
        strips=sample_strips(
            shown.images,
            shown.labels,
            shown.class_names,
            mean=next(iter(shown.colours.values())),
            windows=shown.windows,
            n_images=config.report_images,
            fixations=None if looked is None else looked.first(),
        ),
        windows=shown.windows,
        filters={
            name: {
                epoch: fetched(first_layer_filters(load_variables(workdir, name, epoch))[0])
                for epoch in epochs_saved(workdir, name)
            }
            for name in seen
        },
        skipped={name: split.skipped for name, split in data.items() if split.skipped},
        experiment=read_record(workdir / "experiment.json"),
    )


def probe(
    config: ConfigDict, shown: Shown, system: str, epoch: int | None, workdir: pathlib.Path
) -> Battery:
    """The battery on a system's networks, kept on disk: in full when finished (`epoch` None).

    What is found there is taken if it is whole, and of these very weights, images and probes.
    """
    finished = epoch is None
    path = workdir / "probes" / f"{system}-{'final' if finished else f'epoch{epoch}'}.npz"
    trained = config_recipe(config).all_epochs if epoch is None else epoch
    amount = {
        "n_images": config.probe_images if finished else config.dynamics_images,
        "every": config.probe_every if finished else config.dynamics_every,
    }
    made_of = amount | {
        "probes": {name: one.levels(shown.windows).tolist() for name, one in PROBES.items()},
        "weights": weights_crc32(workdir, system, trained),
        "images": shown.fingerprints,
        "mean": [float(level) for level in shown.colours[system]],
    }
    if path.exists():
        try:
            return load_battery(path, system, made_of)
        except InputError as error:
            print(f"{error} It is made again.", file=sys.stderr)
    battery = run_battery(
        config_network(config, len(shown.class_names)),
        load_variables(workdir, system, trained),
        system,
        shown.images,
        shown.labels,
        mean=shown.colours[system],
        windows=shown.windows,
        batch_size=config.recipe.batch_size,
        **amount,
    )
    save_battery(battery, path, made_of)
    return load_battery(path, system, made_of)


def perceptual(config: ConfigDict, shown: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """System -> metric -> [N], against Reference; nothing where Reference is not among them."""
    names = metrics_that_fit(config.metrics, config.size)
    others = {name: images for name, images in shown.items() if name != REFERENCE}
    if REFERENCE not in shown or not names:
        return {}
    return {n: perceptual_panel(shown[REFERENCE], images, names) for n, images in others.items()}


def histories(systems: Iterable[str], workdir: pathlib.Path) -> tuple[History, ...]:
    """The rows of metrics.jsonl as one history a system."""
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["kind"] == "epoch"]

    def history(system):
        own = sorted((r for r in rows if r["system"] == system), key=lambda row: row["epoch"])
        columns = {
            name: np.array([row[name] for row in own], np.float64).T
            for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
        }
        rate = np.array([row["learning_rate"] for row in own], np.float64)
        return History(system, np.array([row["epoch"] for row in own]), rate, **columns)

    return tuple(map(history, systems))
