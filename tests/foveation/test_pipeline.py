"""The whole experiment from a config to the verdicts, on tiny settings, and bad input."""

import dataclasses
import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from foveation_jax import pipeline
from foveation_jax.claims.results_files import read_results
from foveation_jax.jobs import workdir
from foveation_jax.probes import occlusion
from foveation_jax.probes.battery import load_battery
from foveation_jax.probes.evaluate import PROBES
from foveation_jax.runs.errors import InputError
from foveation_jax.training.checkpoints import load_variables

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "foveation"
NOTEBOOK = ROOT / "notebooks" / "foveation.ipynb"
SYSTEMS = ("reference", "foveation_texture")


def tiny_config(**changes):
    """The smoke experiment with two systems, a narrower network and fewer of everything."""
    config = runpy.run_path(str(CONFIGS / "smoke.py"))["get_config"]().unlock()
    config.systems = SYSTEMS
    config.limit_train, config.limit_test = 4, 2
    config.width = 0.0625
    config.recipe.epochs, config.recipe.batch_size = 2, 8
    config.keep_epochs = (0, 1, 2)
    config.probe_images, config.probe_every = 1, 8
    config.dynamics_images, config.dynamics_every = 1, 16
    config.metrics = ("mse", "ssim")
    config.report_images = 1
    config.update_from_flattened_dict(changes)
    return config.lock()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Programs are compiled once, for this process and for those that it starts."""
    before, folder = jax.config.jax_compilation_cache_dir, tmp_path_factory.mktemp("cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def without_page(monkeypatch):
    """Of tests that do not look at the page, which takes seconds to draw."""
    monkeypatch.setattr(pipeline.experiment_page, "write_report", lambda *given: given[-1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return out, pipeline.run(tiny_config(), out)


def test_a_finished_folder_holds_results_page_metrics_and_checkpoints(finished):
    out, ended = finished
    document = json.loads((out / "results.json").read_text())
    assert set(document["accuracy"]) == set(SYSTEMS)
    assert all(0 <= value <= 1 for value in document["accuracy"].values())
    assert all({"name", "verdict", "effect", "interval"} <= set(c) for c in document["claims"])
    assert {c["verdict"] for c in document["claims"]} <= {"holds", "fails", "undecided"}
    results, table = read_results(out / "results.json")
    assert set(results.dynamics) == {0, 1, 2}
    assert len(results.confusion) == len(SYSTEMS) ** 2
    assert len(table.claims) == len(document["claims"])
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Foveation-Texture" in page
    assert ended.lines()[-1] == f"report: {out / 'report.html'}"
    assert not list(out.rglob("*.unfinished"))


def test_own_accuracy_is_that_of_the_last_row_of_metrics(finished):
    out, _ = finished
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for system in SYSTEMS:
        last = [r for r in rows if r["system"] == system and r["kind"] == "epoch"][-1]
        battery = load_battery(out / "probes" / f"{system}-final.npz", system)
        own = next(c for c in battery.curves if c.probe == f"generalization/{system}")
        np.testing.assert_allclose(own.accuracy[:, 0], last["test_accuracy"], atol=1e-6)


def test_runs_are_paired_across_systems_and_differ_from_each_other(finished):
    out, _ = finished
    first, second = (load_variables(out, system, 0)["params"] for system in SYSTEMS)
    kernel, other = (np.asarray(p["conv1"]["kernel"]) for p in (first, second))
    np.testing.assert_array_equal(kernel, other)
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.usefixtures("without_page")
def test_a_second_run_does_nothing_again(finished, monkeypatch):
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.np[yz]")}
    monkeypatch.setattr(pipeline, "run_battery", None)
    metrics = (out / "metrics.jsonl").read_bytes()
    pipeline.run(tiny_config(), out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.np[yz]")} == before
    assert (out / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": ""}, "data is empty: name a folder, tfds:NAME, or synthetic"),
        ({"data": "nowhere"}, "nowhere is not a folder"),
        ({"size": (8, 8)}, "size has 8; allowed is"),
        ({"runs": 0}, "runs is 0; allowed is 1 and above"),
        ({"systems": ()}, "systems is empty"),
        ({"systems": ("referense",)}, "systems has 'referense'; allowed are reference"),
        ({"metrics": ("mss",)}, "metrics has 'mss'; allowed are"),
        ({"network": "resnet19"}, "network is 'resnet19'; allowed are alexnet"),
        ({"network": "alexnet"}, "32 x 32 is too small for alexnet"),
        ({"width": 0.0}, "width is 0.0; allowed is above 0"),
        ({"recipe.epochs": 0, "keep_epochs": ()}, "epochs is 0; allowed is 1"),
        ({"recipe.batch_size": 64}, "64"),
        ({"keep_epochs": (3,)}, "keep_epochs has 3; allowed is 0 to 2"),
        ({"stage1.when": "later"}, "stage1.when is 'later'; allowed are beforehand, on_the_fly"),
        ({"stage1.eye_movements": "wobble"}, "stage1.eye_movements is 'wobble'; allowed are fixed"),
        (
            {"stage1.eye_movements": "uniform"},
            "stage1.eye_movements, with stage1.when=beforehand, is 'uniform'; allowed are fixed",
        ),
        ({"stage1.match_images": 0}, "stage1.match_images is 0"),
        (
            {"stage1.match_tolerance": 0.0},
            "match_tolerance is 0.0; allowed is above 0 to below 1",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_claims_no_folder(changes, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence) as error:
        pipeline.run(tiny_config(**changes), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "results.json").exists()


def test_another_experiment_in_the_folder_is_refused_by_its_field(finished):
    out, _ = finished
    before = (out / "experiment.json").read_bytes()
    with pytest.raises(InputError, match=r"recipe\.momentum is 0\.9 there and 0\.8 here"):
        pipeline.run(tiny_config(**{"recipe.momentum": 0.8}), out)
    assert (out / "experiment.json").read_bytes() == before


def measured(out):
    """All that a run has measured and concluded, without when and by which command."""
    kept = ["claims.csv", "curves.csv", *sorted(f"probes/{p.name}" for p in out.glob("probes/*"))]
    document = json.loads((out / "results.json").read_text())
    del document["experiment"], document["crc32"]
    return document, {name: (out / name).read_bytes() for name in kept}


def test_damaged_results_are_made_again(finished, tmp_path, capsys):
    """Cut, emptied, junk, of another run, or lost; to the same bytes."""
    whole = measured(finished[0])
    out = shutil.copytree(finished[0], tmp_path / "out")
    page = (out / "report.html").stat().st_size
    damage = {
        "images/train.npy": lambda content: content[: len(content) // 2],
        "images/test.json": lambda content: b"\xffjunk",
        "perceived/reference/test.npy": lambda content: content[:-9] + b"\0" * 9,
        "perceived/foveation_texture/train.npy": lambda content: b"",
        "probes/reference-final.npz": lambda content: content[:999],
        "probes/reference-epoch0.npz": lambda content: b"",
        "probes/reference-epoch1.npz": lambda content: probes.read_bytes(),
        "results.json": lambda content: content[:999],
        "claims.csv": lambda content: b"",
        "curves.csv": lambda content: content.replace(b"0.5", b"0.6"),
        "report.html": lambda content: content[:999],
    }
    probes = out / "probes" / "reference-epoch2.npz"
    for name, change in damage.items():
        (out / name).write_bytes(change((out / name).read_bytes()))
    pipeline.run(tiny_config(), out)
    assert measured(out) == whole
    assert (out / "report.html").stat().st_size == pytest.approx(page, rel=0.01)
    said = capsys.readouterr().err
    for name in (*list(damage)[:7],):
        assert Path(name).name in said


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("experiment.json", r"name another --workdir\.$"),
        ("metrics.jsonl", r"remove .*checkpoints/reference to train it again\.$"),
        (
            "checkpoints/reference/setup.json",
            r"remove .*checkpoints/reference to train it again\.$",
        ),
        ("checkpoints/reference/epochs/1/files.json", r"remove .*/reference to train it again\.$"),
    ],
)
def test_damage_that_only_work_can_mend_is_one_sentence(finished, tmp_path, name, remedy):
    out = shutil.copytree(finished[0], tmp_path / "out")
    content = (out / name).read_bytes()
    for part in (content[:60], b"", b"\0junk" * 99, content.replace(b"1", b"2", 1)):
        (out / name).write_bytes(part)
        with pytest.raises(InputError, match=rf"{Path(name).name}.*{remedy}") as error:
            pipeline.run(tiny_config(), out)
        assert "\n" not in str(error.value)


@pytest.mark.usefixtures("without_page")
def test_probes_of_other_networks_and_other_probes_are_made_again(finished, tmp_path, monkeypatch):
    """The weights are others than those that were probed; here, those of another epoch.

    And one probe has fewer levels than what is kept, that of the weights that stayed included.
    """
    name = "occlusion/scotoma"
    whole = PROBES[name]
    fewer = dataclasses.replace(
        whole, levels=lambda x: whole.levels(x)[:4], axis=lambda x: whole.axis(x)[:4]
    )
    monkeypatch.setitem(PROBES, name, fewer)
    out = shutil.copytree(finished[0], tmp_path / "out")
    epochs = out / "checkpoints" / "reference" / "epochs"
    shutil.rmtree(epochs / "1")
    shutil.copytree(epochs / "0", epochs / "1")
    pipeline.run(tiny_config(), out)
    first, second = (
        load_battery(out / "probes" / f"reference-epoch{epoch}.npz", "reference").curves
        for epoch in (0, 1)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.accuracy, b.accuracy)
    hidden = next(curve.levels for curve in first if curve.probe == name)
    assert hidden[-1] == occlusion.hidden_areas("scotoma", tiny_config().size)[3] < 1


ONE_SYSTEM = {"systems": ("reference",), "keep_epochs": ()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, finished):
    """One system alone, whose programs are those of `finished`."""
    out = tmp_path_factory.mktemp("runs") / "one"
    pipeline.run(tiny_config(**ONE_SYSTEM), out)
    return measured(out)


@pytest.fixture(scope="module")
def command(tmp_path_factory, cache):
    """The command for `ONE_SYSTEM`, but for its workdir."""
    config = tmp_path_factory.mktemp("configs") / "one.py"
    config.write_text(
        "from tests.foveation import test_pipeline as tiny\n\n\n"
        "def get_config():\n    return tiny.tiny_config(**tiny.ONE_SYSTEM)\n"
    )
    run = "import foveation_jax.main; foveation_jax.main.main()"  # with the tests on the path
    flags = (f"--config={config}", f"--compilation_cache_dir={cache}")
    return (sys.executable, "-c", run, *flags)


def test_of_commands_on_one_folder_one_is_undisturbed(undisturbed, command, tmp_path):
    """Two begin together; a third comes while the one that has the folder is in training."""
    out = tmp_path / "out"

    def start():
        return subprocess.Popen(
            [*command, f"--workdir={out}"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    with start() as first, start() as second:
        both = (first, second)
        while not list(out.glob("*.jsonl")) and any(process.poll() is None for process in both):
            time.sleep(0.05)
        assert any(process.poll() is None for process in both)  # the third is not too late
        with start() as third:
            ended = [(process.communicate(timeout=900), process) for process in (*both, third)]
    assert sorted(process.returncode for _, process in ended) == [0, 2, 2]
    assert third.returncode == 2
    for (_, said), process in ended:
        if process.returncode == 2:
            assert said.count("\n") == 1
            assert f"{out} is in use by another run" in said
    assert measured(out) == undisturbed


def test_how_often_states_are_written_is_no_other_experiment(finished):
    out, _ = finished
    workdir.check_workdir(out, tiny_config(keep_seconds=1.0))


def test_a_finished_run_goes_on_by_more_epochs_alone(finished, tmp_path):
    out, _ = finished
    more = {"recipe.more_epochs": 2, "keep_epochs": (0, 1, 4)}
    pipeline.check_config(tiny_config(**more))
    workdir.check_workdir(out, tiny_config(**more))
    with pytest.raises(InputError, match=r"config\.recipe\.epochs is 2 there and 3 here"):
        workdir.check_workdir(out, tiny_config(**more, **{"recipe.epochs": 3}))
    gone_on = shutil.copytree(out, tmp_path / "out")
    workdir.claim_workdir(gone_on, tiny_config(**more))
    with pytest.raises(InputError, match=r"recipe\.more_epochs is 2 there and 1 here"):
        workdir.check_workdir(gone_on, tiny_config(**{"recipe.more_epochs": 1}))
    with pytest.raises(InputError, match="keep_epochs has 5; allowed is 0 to 4"):
        pipeline.check_config(tiny_config(**more | {"keep_epochs": (5,)}))


@pytest.mark.parametrize("name", ["smoke", "scenes_cpu", "paper_alexnet", "paper_resnet18"])
def test_every_config_can_be_run(name):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    with config.unlocked():
        config.data = "synthetic"
    pipeline.check_config(config)


def test_notebook_runs_top_to_bottom(finished, monkeypatch):
    """On smaller scenes, and with the smoke config made tiny, of which it finds all `finished`."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    names = {"__name__": "notebook"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("(128, 128)", "(32, 32)")
            exec(compile(source, str(NOTEBOOK), "exec"), names)
            if "pipeline" not in names and "config" in names:
                assert names["config"].data == "synthetic"
                names["config"] = tiny_config()
                shutil.copytree(finished[0], names["workdir"], dirs_exist_ok=True)
    assert set(names["finished"].accuracy) == set(SYSTEMS)
    assert names["hidden"].shape == names["mixed"].shape == names["high"].shape == (3, 32, 32, 3)
