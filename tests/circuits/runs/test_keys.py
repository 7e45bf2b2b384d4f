"""One seed, one circuit: the command, the import and the notebook agree bit for bit."""

import contextlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax import config, main
from circuits_jax.circuits.circuit import load_scores
from circuits_jax.evaluation import cost
from circuits_jax.jobs import compare, workdir
from circuits_jax.pipeline import found_evaluation
from circuits_jax.runs import command, keys
from circuits_jax.runs.errors import InputError

ROOT = Path(__file__).parents[3]
MODEL, SIZE = "planted:2x4", 2
OPTIONS = {"ablations": ("mean",), "curve": (0.1,), "n_random": 2}  # as the notebook has them


@pytest.fixture(scope="module")
def by_command(tmp_path_factory):
    """The workdir of a run by the command's own entry."""
    folder = tmp_path_factory.mktemp("keys") / "run"
    fields = {"model": MODEL, "circuit.size": SIZE, "stability.n": 4, "stability.n_seeds": 1}
    fields |= {f"evaluate.{name}": repr(value) for name, value in OPTIONS.items()}
    arguments = [f"--config={ROOT}/configs/circuits/planted.py", f"--workdir={folder}"]
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["circuits-jax", *arguments, "--compilation_cache_dir="])
        main._run(command._parse(sys.argv, main.__doc__))
    return workdir.Workdir(folder, {}, {})


@pytest.fixture(scope="module")
def by_import():
    model = cj.load_model(MODEL)
    task = cj.make_task("planted", model.tokenizer)
    scores = cj.discover(model, task)
    circuit = scores.circuit(size=SIZE)
    options = cj.EvaluationOptions(**OPTIONS)
    return model, task, scores, cj.evaluate(model, task, circuit, options=options)


def same(a, b):
    np.testing.assert_array_equal(a.head_scores, b.head_scores)
    np.testing.assert_array_equal(a.edge_scores, b.edge_scores)
    assert set(a.details) == set(b.details)
    for name in a.details:
        np.testing.assert_array_equal(a.details[name], b.details[name])


def test_the_command_and_the_import_agree_bit_for_bit(by_command, by_import):
    same(load_scores(by_command / "scores.npz"), by_import[2])
    assert found_evaluation(by_command) == by_import[3]


def test_the_notebook_agrees_bit_for_bit(by_import):
    """Its cells that find and judge, on the small model."""
    cells = json.loads((ROOT / "notebooks" / "circuits.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        source = "".join(cell["source"])
        if any(call in source for call in ("cj.make_task", "cj.discover", "cj.evaluate")):
            for old, new in (("smollm2", MODEL), ("ioi", "planted")):
                source = source.replace(f'"{old}"', f'"{new}"')
            exec(source.replace("size=68", f"size={SIZE}"), names)
    same(names["scores"], by_import[2])
    assert names["task"] == by_import[1]
    assert names["evaluation"] == by_import[3]


def test_the_method_inside_a_comparison_is_the_same(by_import, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "_uncompiled", contextlib.nullcontext)
    model, task, scores, _ = by_import
    own = workdir.Workdir(tmp_path, {}, {})
    compare.score(own, config.comparison("planted"), model, task, "sae_codes")
    same(load_scores(tmp_path / "sae_codes" / "scores.npz"), scores)


def test_bootstraps_agree(by_command, by_import):
    model, task, *_ = by_import
    found = cj.bootstrap(model, task, 0, n=4, n_seeds=1, size=SIZE)
    with np.load(by_command / "stability.npz") as arrays:
        np.testing.assert_array_equal(arrays["head_scores"], found.head_scores)
    assert len(repr(found)) < 200


def test_a_seed_from_python_is_a_seed_of_discover():
    model = cj.load_model(MODEL)
    a, b, other = (
        cj.discover(model, "planted", "random", **given).head_scores
        for given in ({"seed": 3}, {"seed": 3, "key": keys.stream(3, "method")}, {"seed": 4})
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, other)


def data(seed, name="method"):
    return tuple(np.asarray(jax.random.key_data(keys.stream(seed, name))).tolist())


def test_streams():
    """`method` and `evaluation` are the halves of a split key, as they have always been."""
    for seed in (0, 1, 2**31, 2**32 - 1):
        halves = jax.random.key_data(jax.random.split(jax.random.key(seed)))
        assert [data(seed), data(seed, "evaluation")] == [tuple(row) for row in halves.tolist()]
    assert len({data(5, name) for name in keys.STREAMS}) == len(keys.STREAMS)
    assert data(None) == data(0) == data(np.int64(0))


def test_seeds_beyond_32_bits_are_told_apart():
    seeds = (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63, 2**64 - 1)
    assert len({data(seed) for seed in seeds}) == len(seeds)


def test_keys_are_taken_as_they_are():
    for key in (jax.random.key(7), jax.random.PRNGKey(7)):
        assert keys.stream(key, "method") is key


@pytest.mark.parametrize("seed", [-1, 2**64, 0.0, True, "0", np.zeros(2), jax.numpy.zeros(2)])
def test_what_is_no_seed(seed):
    with pytest.raises(InputError, match="allowed is"):
        keys.stream(seed, "method")
