"""The command from end to end on a tiny model: results, going on, and bad input."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from circuits_jax.config import experiment
from circuits_jax.evaluation.node_views import load_node_views
from tests.circuits import tiny
from tests.forks import forks

CONFIGS = Path(__file__).parents[2] / "configs" / "circuits"
RESULTS = {
    "circuit.json",
    "config.json",
    "metrics.jsonl",
    "nodes.npz",
    "report.html",
    "run.json",
    "scores.npz",
    "stability.npz",
    "sums.json",
}
L, H, N = 3, 4, 3
SIZE = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a task of eight lines, and room for results."""
    folder = tmp_path_factory.mktemp("command")
    tiny.write_model(folder / "model")
    tiny.write_task(folder / "task.jsonl", tiny.pairs(8))
    return folder


@pytest.fixture(scope="module")
def command(folder):
    """Runs a command line in `folder`; gives its exit code, what it printed, and its errors."""
    used = "transformers", "circuits_jax.pipeline", "scipy.special", "matplotlib.figure"
    with forks("circuits_jax", folder, *used) as run:
        yield run


def arguments(workdir, *more, config="custom", task="task.jsonl", model="model"):
    """A short run on the tiny model."""
    fields = {
        "model": model,
        "task.n": N,
        "circuit.size": SIZE,
        "stability.n": 10,
        "evaluate.n_random": 2,
        "sae_codes.steps": 30,
    }
    if config == "custom":
        fields["task.path"] = task
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    changed = [flag.partition("=")[0] for flag in more]
    given = [flag for flag in given if flag.partition("=")[0] not in changed]
    cache = "--compilation_cache_dir=cache"
    return [f"--config={CONFIGS / config}.py", f"--workdir={workdir}", cache, *given, *more]


def contents(workdir):
    return {path.name: path.read_bytes() for path in workdir.iterdir()}


@pytest.fixture(scope="module")
def finished(folder, command):
    """The folder of a finished run, and what the command said."""
    result = command(*arguments("finished"))
    assert result.code == 0, result.err
    return folder / "finished", result


def test_a_run_ends_with_the_path_of_its_report(finished):
    workdir, result = finished
    *judgement, last = result.out.strip().splitlines()
    assert last == f"Report: {workdir / 'report.html'}"
    assert [line.split()[0] for line in judgement[1:3]] == ["learnt", "held"]
    assert f"faithfulness, {SIZE} heads" in judgement
    assert {path.name for path in workdir.iterdir()} == RESULTS


def test_scores_and_circuit(finished):
    workdir, _ = finished
    with np.load(workdir / "scores.npz") as arrays:
        scores = {name: arrays[name] for name in arrays.files}
    assert scores["head_scores"].shape == (L, H)
    assert scores["edge_scores"].shape == (L * H, L * H)
    assert scores["codes"].shape == (2 * N, L * H)
    assert not np.tril(scores["edge_scores"]).any()
    circuit = json.loads((workdir / "circuit.json").read_text())
    assert (circuit["schema"], circuit["version"]) == ("circuits_jax/circuit", 1)
    assert circuit["sign"] == "higher = in the circuit"
    assert (circuit["model"], circuit["task"], circuit["method"]) == (
        "model",
        "custom",
        "sae_codes",
    )
    best = np.argsort(-scores["head_scores"], axis=None, kind="stable")[:SIZE]
    assert [row["layer"] * H + row["head"] for row in circuit["heads"]] == best.tolist()


def test_nodes_that_are_looked_at(finished):
    """The circuit's heads, best first, and the MLPs of its graph."""
    workdir, _ = finished
    record = json.loads((workdir / "circuit.json").read_text())
    heads = [f"a{row['layer']}.h{row['head']}" for row in record["heads"]]
    mlps = [node for node in record["graph"]["nodes"] if node.startswith("m")]
    assert list(load_node_views(workdir / "nodes.npz").nodes) == [*heads, *mlps]


def test_evaluation_metrics_and_record(finished):
    workdir, _ = finished
    evaluation = json.loads((workdir / "circuit.json").read_text())["evaluation"]
    own = {(j["ablation"], j["kept"]) for j in evaluation["judgements"] if j["size"] == SIZE}
    kinds = ("circuit", "complement", "random", "edges", "edges_complement", "random_edges")
    assert own == {(a, k) for a in ("mean", "zero", "resample") for k in kinds}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    stages = [json.loads(line)["stage"] for line in lines]
    assert set(stages) == {"fit", "evaluate"}
    assert stages.count("evaluate") == len(evaluation["judgements"])
    losses = [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]
    assert losses[-1] < losses[0]
    record = json.loads((workdir / "run.json").read_text())
    assert {
        "load model",
        "make prompts",
        "measure performance",
        "score heads",
        "bootstrap",
        "evaluate",
        "look at nodes",
        "write report",
    } == set(record["seconds"])
    config = json.loads((workdir / "config.json").read_text())
    assert (config["task"]["n"], config["circuit"]["size"], config["seed"]) == (N, SIZE, 0)


def test_performance_and_warnings_stand_at_the_head(finished):
    """Of circuit.json, of what is printed, and of the page; random weights do no task."""
    workdir, result = finished
    record = json.loads((workdir / "circuit.json").read_text())
    assert list(record)[7:9] == ["warnings", "performance"]
    assert list(record).index("performance") < list(record).index("heads")
    assert {name: one["pairs"] for name, one in record["performance"].items()} == {
        "learn": N,
        "held_out": 8 - N,
    }
    assert record["warnings"]
    page = html.unescape((workdir / "report.html").read_text())
    for sentence in record["warnings"]:
        assert f"Warning: {sentence}." in result.out
        assert f"{sentence[0].upper()}{sentence[1:]}." in page


def test_no_contrast_is_refused_and_leaves_nothing(folder, command):
    rows = [(positive, positive, *rest) for positive, _, *rest in tiny.pairs(6)]
    tiny.write_task(folder / "same.jsonl", rows)
    refuse(
        command, "'custom' has no contrast: in all 3 pairs", *arguments("same", task="same.jsonl")
    )
    assert not (folder / "same").exists()


def test_fewer_lines_held_out(folder, command):
    refuse(
        command,
        "n_held_out is 9; allowed is 1 to 5",
        *arguments("few", "--config.task.n_held_out=9"),
    )
    settings = experiment("custom")
    assert (settings.task.n_held_out, settings.task.n) == (None, 5)


def test_the_report_stands_alone(finished):
    page = (finished[0] / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "when " in page  # the prompts
    for address in ('src="http', 'href="http', "url(http", "@import"):
        assert address not in page


def test_a_finished_run_does_nothing_again(finished, command):
    workdir, _ = finished
    before = contents(workdir)
    result = command(*arguments("finished"))
    assert result.code == 0
    assert "nothing is done again" in result.err
    after = contents(workdir)
    assert {k: v for k, v in after.items() if k != "run.json"} == {
        k: v for k, v in before.items() if k != "run.json"
    }
    seconds = [json.loads(files["run.json"])["seconds"] for files in (before, after)]
    assert seconds[0] == seconds[1]


@pytest.mark.parametrize("lost", [("circuit.json",), ("circuit.json", "scores.npz")])
def test_a_stopped_run_goes_on_and_ends_alike(finished, command, lost):
    """What was finished is found, what was not is made again and comes out the same."""
    workdir, _ = finished
    before, stamp = contents(workdir), (workdir / "scores.npz").stat().st_mtime_ns
    for name in ("report.html", *lost):
        (workdir / name).unlink()
    assert command(*arguments("finished")).code == 0
    assert ((workdir / "scores.npz").stat().st_mtime_ns == stamp) == ("scores.npz" not in lost)
    after = contents(workdir)
    assert set(after) == RESULTS
    for name in ("circuit.json", "metrics.jsonl"):
        assert after[name] == before[name]


def test_runs_side_by_side(finished, command, folder):
    again = shutil.copytree(finished[0], folder / "again")
    result = command("diff", "finished", str(again), "--workdir=runs/diff")
    assert result.code == 0, result.err
    assert "finished, again" in result.out
    assert result.out.splitlines()[-1] == f"Report: {folder / 'runs' / 'diff' / 'report.html'}"
    assert "finished against again" in (folder / "runs" / "index.html").read_text()
    refused = command("diff", "finished", "nowhere", "--workdir=runs/none")
    assert refused.code == 2
    assert refused.err == "circuits-jax: nowhere is no finished run: it has no circuit.json\n"
    assert not (folder / "runs" / "none").exists()


def test_another_seed_gives_other_scores(finished, command, folder):
    short = "--config.stability.n=0", "--config.evaluate.curve=()", "--config.evaluate.n_random=0"
    assert command(*arguments("other", "--config.seed=1", *short)).code == 0
    scores = []
    for workdir in (finished[0], folder / "other"):
        with np.load(workdir / "scores.npz") as arrays:
            scores.append(arrays["head_scores"])
    assert not np.array_equal(*scores)


def refuse(command, message, *given):
    """Exit code 2 and one sentence on stderr, no traceback."""
    result = command(*given)
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    last = result.err.strip().split("\n")[-1]
    assert last.startswith("circuits-jax: ")
    for part in message if isinstance(message, tuple) else (message,):
        assert part in last
    assert "Report" not in result.out


def test_another_experiment_in_the_same_workdir(finished, command):
    workdir, _ = finished
    before = contents(workdir)
    refuse(command, "config.seed is 0 there and 1 here", *arguments("finished", "--config.seed=1"))
    assert contents(workdir) == before


UNKNOWN = {
    "--config.sed=1": ("unknown field of config 'sed'", "did you mean config.seed?"),
    "--config.n_hold_out=1": "did you mean config.task.n_held_out?",
    "--config.task.seed=1": "did you mean config.seed?",
    "--noconfig.sae_codes.shred": "did you mean config.sae_codes.shared?",
    "--config.task.m=1": ("unknown field of config.task 'm'", "metric, n, n_held_out, name, path"),
    "--config.circuit.sizes=1": ("'sizes'", "did you mean config.circuit.size?"),
    "--config.seed.deep=1": "unknown field of config.seed 'deep'",
    "--workdri=x": "workdri",
    "stray": "unexpected argument 'stray'",
}


@pytest.mark.parametrize("given", UNKNOWN)
def test_unknown_fields_and_flags(command, folder, given):
    refuse(command, UNKNOWN[given], *arguments("unknown", given))
    assert not (folder / "unknown").exists()


def test_unknown_field_where_the_config_is_a_word_of_its_own(command):
    path = str(CONFIGS / "custom.py")
    refuse(command, "did you mean config.seed?", "--config", path, "--config.sed=1")


BAD_VALUES = {
    "--config.seed=soon": "soon",
    "--config.seed=1e3": "1e3",
    "--config.seed=-1": "config.seed is -1; allowed are 0 to 4294967295",
    "--config.seed=99999999999999999999": "config.seed is 99999999999999999999",
    f"--config.seed={'9' * 5000}": "config.seed",
    "--config.evaluate.curve=(float('nan'),)": "config.evaluate.curve has",
    "--config.model=\udcff": "config.model is",
    "--config.task.path=a\0b": "config.task.path is 'a\\x00b'",
    "--config.model=/nope": "/nope is no folder or file",
    "--config.seed=2\t--config.seed=3": "--config.seed is given 2 times",
    f"--config={CONFIGS / 'ioi.py'}": "--config is given 2 times",
    "--config.method=sae_code": ("unknown method 'sae_code'", "sae_codes"),
    "--config.dtype=float16": "dtype is 'float16'; allowed are float32, bfloat16",
    "--config.model=nowhere": "nowhere",
    "--config.task.n=0": "n is 0; allowed is 1 and above",
    "--config.task.n=8": "task.jsonl has 8 pairs",
    "--config.task.path=": "needs its option path",
    "--config.task.path=absent.jsonl": "absent.jsonl",
    "--config.circuit.fraction=1.5": "config.circuit.fraction is 1.5; allowed is 0 to 1",
    "--config.circuit.threshold=0.5": "size (4) and threshold (0.5)",
    "--config.evaluate.ablations=('noise',)": "'noise'; allowed are zero, mean, resample",
    "--config.evaluate.n_random=-1": "n_random is -1; allowed is a whole number, 0 and above",
    "--config.evaluate.masks_at_once=0": "is 0; allowed is a whole number, 1 and above",
    "--config.sae_codes.basis=narrow": "basis is 'narrow'; allowed are isometric, full",
    "--config.sae_codes.score=best": "score is 'best'; allowed are evidence, unique",
    "--config.sae_codes.position=first": "position is 'first'; allowed are peak, mean, last",
    "--config.sae_codes.n_codes=0": "n_codes is 0; allowed is 1 and above",
}


@pytest.mark.parametrize("given", BAD_VALUES)
def test_values_that_are_not_allowed(command, folder, given):
    refuse(command, BAD_VALUES[given], *arguments("values", *given.split("\t")))
    assert not (folder / "values").exists()


def test_missing_config(command):
    refuse(command, "--config is missing")
    refuse(command, "none.py", "--config=none.py")


def test_config_files_that_are_none(command, folder):
    (folder / "config.py").write_text("def get_config():\n    return 1 / 0")
    refuse(command, "ZeroDivisionError in line 2: division", "--config=config.py")


def test_a_workdir_under_a_file(command, folder):
    (folder / "file").write_text("kept")
    refuse(command, "cannot be written", *arguments("file/below"))
    refuse(command, "cannot be written", *arguments("file"))
    refuse(command, "NUL", *arguments("a\0b"))
    refuse(command, "cannot be used", *arguments("\udcff"))
    assert (folder / "file").read_text() == "kept"


LINES = {
    "{": "line 2: not JSON",
    "[]": "line 2: must be a JSON object",
    '{"positive": "Ann", "negative": "Bob", "answer": " Ann"}': "lacks the field 'foil'",
    '{"positive": "", "negative": "Bob", "answer": " Ann", "foil": " Bob"}': "positive must be",
}


@pytest.mark.parametrize("line", LINES)
def test_bad_lines(command, folder, line):
    good = tiny.write_task(folder / "good.jsonl", tiny.pairs(5)).read_text().splitlines()
    (folder / "bad.jsonl").write_text("\n".join([good[0], line, *good[1:]]))
    workdir = f"bad{abs(hash(line))}"
    refuse(command, LINES[line], *arguments(workdir, task="bad.jsonl"))
    assert not (folder / workdir / "circuit.json").exists()


def test_help_names_the_flags(command):
    result = command("--help")
    assert "Traceback" not in result.err
    for flag in ("--config=", "--workdir=DIR", "--config.task.n=5", "--config.model=smollm2"):
        assert flag in result.out
