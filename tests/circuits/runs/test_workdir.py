"""The folder of a run: refuses another experiment, records the run, keeps its files whole."""

import json

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from circuits_jax.circuits.circuit import Scores, load_scores
from circuits_jax.config import experiment
from circuits_jax.jobs.workdir import open_workdir
from circuits_jax.runs import files
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.experiment import environment


def begun(config, path):
    """A folder whose model and prompts were found to be usable."""
    workdir = open_workdir(config, path)
    workdir.begin()
    return workdir


@pytest.fixture
def config():
    return experiment("ioi")


def test_a_new_folder_records_config_and_environment(tmp_path, config):
    workdir = begun(config, tmp_path / "new" / "run")
    assert workdir.path == tmp_path / "new" / "run"
    recorded = json.loads((workdir / "config.json").read_text())
    assert list(recorded.pop("model_files")) == ["smollm2"]
    assert recorded == files.plain(config.to_dict())
    record = json.loads((workdir / "run.json").read_text())
    assert record["seconds"] == {}
    assert {"python", "jax", "jaxlib", "flax", "numpy"} <= set(record["versions"])
    assert len(record["devices"]) == 2
    assert set(record) == {*environment(), "seconds"}
    assert not workdir.has("scores.npz")
    assert workdir.has("config.json")


def test_the_same_experiment_goes_on(tmp_path, config):
    first = begun(config, tmp_path)
    with first.stage("load model"):
        pass
    second = begun(experiment("ioi"), tmp_path)
    with second.stage("evaluate"):
        pass
    assert list(json.loads((second / "run.json").read_text())["seconds"]) == [
        "load model",
        "evaluate",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"config\.seed is 0 there and 1 here"),
        ({"task": {"n": 6}}, r"config\.task\.n is 5 there and 6 here"),
        ({"sae_codes": {"l1": 0.5}}, r"config\.sae_codes\.l1 is 0\.02 there and 0\.5 here"),
        ({"circuit": {"size": 3}}, r"config\.circuit\.size is None there and 3 here"),
        (
            {"evaluate": {"ablations": ("zero",)}},
            r"config\.evaluate\.ablations is \['mean', 'zero', 'resample'\] there and \['zero'\]",
        ),
    ],
)
def test_another_experiment_is_refused_and_nothing_is_touched(tmp_path, config, change, message):
    begun(config, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = experiment("ioi")
    other.update(change)
    with pytest.raises(InputError, match=message) as caught:
        open_workdir(other, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_fields_that_only_one_experiment_has_are_named(tmp_path, config):
    begun(config, tmp_path)
    with pytest.raises(InputError, match=r"config\.task\.name is 'ioi' there and 'custom' here"):
        open_workdir(experiment("custom", path="x"), tmp_path)
    more = ml_collections.ConfigDict(config.to_dict() | {"new": 1})
    with pytest.raises(InputError, match=r"config\.new is None there and 1 here"):
        open_workdir(more, tmp_path)


def test_a_damaged_config_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not a readable JSON file"):
        open_workdir(config, tmp_path)


def test_a_folder_that_cannot_be(tmp_path, config):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be written"):
            begun(config, path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_stage_that_fails_is_not_recorded(tmp_path, config):
    workdir = begun(config, tmp_path)
    with pytest.raises(KeyError), workdir.stage("evaluate"):
        raise KeyError
    assert json.loads((workdir / "run.json").read_text())["seconds"] == {}


def test_metrics_replace_those_of_their_stage(tmp_path, config):
    workdir = begun(config, tmp_path)
    workdir.add_metrics("fit", [{"step": 0, "loss": 2.0}, {"step": 1, "loss": np.float32(1.5)}])
    workdir.add_metrics("evaluate", [{"faithfulness": float("nan")}])
    workdir.add_metrics("fit", [{"step": 0, "loss": 3.0}])
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stage": "evaluate", "faithfulness": None},
        {"stage": "fit", "step": 0, "loss": 3.0},
    ]


def test_scores_come_back(tmp_path, config):
    workdir = open_workdir(config, tmp_path)
    rng = np.random.default_rng(0)
    details = {"codes": jnp.arange(6).reshape(2, 3), "strengths": jnp.ones((2, 3))}
    scores = Scores(rng.random((1, 3), np.float32), jnp.asarray(rng.random((3, 3))), details)
    scores.save(workdir / "scores.npz")
    found = load_scores(workdir / "scores.npz")
    np.testing.assert_array_equal(found.head_scores, scores.head_scores)
    np.testing.assert_array_equal(found.edge_scores, scores.edge_scores)
    assert set(found.details) == set(details)
    np.testing.assert_array_equal(found.details["codes"], details["codes"])
    assert found.details["codes"].dtype == np.int32
    with np.load(workdir / "scores.npz") as arrays:
        assert set(arrays.files) == {"head_scores", "edge_scores", "codes", "strengths"}


def test_nothing_is_written_before_model_and_prompts_are_usable(tmp_path, config):
    workdir = open_workdir(config, tmp_path / "run")
    with workdir.stage("load model"):
        pass
    assert not workdir.path.exists()
    workdir.begin()
    assert "load model" in json.loads((workdir / "run.json").read_text())["seconds"]


def test_a_task_file_that_changed_is_another_experiment(tmp_path):
    lines = tmp_path / "task.jsonl"
    lines.write_text("1")
    config = experiment("custom", path=str(lines))
    begun(config, tmp_path / "run")
    open_workdir(config, tmp_path / "run")
    lines.write_text("2")
    with pytest.raises(InputError, match=r"config\.task\.path_sha256 is"):
        open_workdir(config, tmp_path / "run")


@pytest.mark.parametrize("named_as", ["adapter", "model"])
@pytest.mark.parametrize("changed", ["adapter/adapter_model.safetensors", "base/model.safetensors"])
def test_an_adapter_or_its_base_that_changed_is_another_experiment(
    tmp_path, config, named_as, changed
):
    for name in ("adapter/adapter_model.safetensors", "base/model.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"weights")
    about = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(about))
    config = config.copy_and_resolve_references().unlock()
    config.model = str(tmp_path / ("base" if named_as == "adapter" else "adapter"))
    config.adapter = str(tmp_path / "adapter") if named_as == "adapter" else None
    open_workdir(config, tmp_path / "run").begin()
    open_workdir(config, tmp_path / "run")
    (tmp_path / changed).write_bytes(b"others")
    with pytest.raises(InputError, match=f"model_files.*{changed.split('/')[0]}"):
        open_workdir(config, tmp_path / "run")


@pytest.mark.parametrize("changed", ["metrics/mine.py", "metrics/beside.py", "metrics/later.py"])
def test_a_metric_of_ones_own_that_changed_is_another_experiment(
    tmp_path, monkeypatch, config, changed
):
    folder, name = tmp_path / "metrics", f"mine_{changed[8:-3]}"
    folder.mkdir()
    for helper in ("beside", "later", "no_part"):
        (folder / f"{helper}.py").write_text("SCALE = 2")
    (folder / f"{name}.py").write_text(
        "import json\nfrom beside import SCALE\nfrom circuits_jax import tasks\n"
        "def twice(logits, targets):\n    import later\n    return logits[:, 0] * SCALE\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    config = config.copy_and_resolve_references().unlock()
    config.task.metric = f"{name}:twice"
    begun(config, tmp_path / "run")
    (folder / "no_part.py").write_text("SCALE = 3")
    again = open_workdir(config, tmp_path / "run")
    assert sorted(again.config["metric_files"]) == sorted(
        f"metrics/{file}.py" for file in ("beside", "later", name)
    )
    file = tmp_path / changed.replace("mine", name)
    file.write_text(file.read_text().replace("2", "3") + "\n")
    with pytest.raises(InputError, match=f"metric_files.{file.parent.name}/{file.name} is"):
        open_workdir(config, tmp_path / "run")
