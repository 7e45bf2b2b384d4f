"""Files of a finished run that are cut, emptied or overwritten: noticed, and made again alike."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from circuits_jax import pipeline
from circuits_jax.config import experiment
from circuits_jax.evaluation import stability
from circuits_jax.runs import files
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

SAME = ("scores.npz", "stability.npz", "circuit.json", "nodes.npz", "metrics.jsonl", "config.json")
KINDS = ("cut", "empty", "bit", "junk", "other")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    config = experiment("custom", path=str(tiny.write_task(folder / "task.jsonl", tiny.pairs(8))))
    config.model = str(tiny.write_model(folder / "model"))
    config.task.n, config.circuit.size, config.sae_codes.steps = 3, 4, 10
    config.stability.n, config.stability.n_seeds, config.evaluate.n_random = 4, 1, 1
    config.evaluate.ablations, config.evaluate.curve = ("zero",), (0.5,)
    return config


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    pipeline.run(settings, folder)
    return folder


def contents(folder):
    return {name: (folder / name).read_bytes() for name in SAME}


def damaged(content, kind, rng):
    """The bytes after an accident."""
    at = int(rng.integers(len(content)))
    if kind == "bit":
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == "junk":
        return content[:at] + rng.bytes(16) + content[at + 16 :]
    return {"cut": content[:at], "empty": b"", "other": b"[1, 2]"}[kind]


def made_again(finished, folder, run):
    """Damage a copy of a finished run three times over and see that `run(folder)` mends it.

    Every file at once, each in another way; then the record of all; then config.json, which says
    whose folder it is, so that nothing can be mended.
    """
    shutil.copytree(finished, folder)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    timed = {"run.json", "report.html", files.SUMS}
    for accident in ({*names} - {"config.json", files.SUMS}, {files.SUMS}):
        for number, name in enumerate(sorted(accident)):
            rng = np.random.default_rng([number, *name.encode()])
            kind = KINDS[number % len(KINDS)]
            (folder / name).write_bytes(damaged((folder / name).read_bytes(), kind, rng))
        run(folder)
        for name in names:
            assert files.whole(folder / name) or name == files.SUMS, name
            if name not in timed:
                assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
        assert (folder / "report.html").read_text().rstrip().endswith("</html>")
    (folder / "config.json").write_bytes(b"{")
    with pytest.raises(InputError, match=str(folder / "config.json")):
        run(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*SAME, "report.html", "run.json", "sums.json"])
def test_a_damaged_file_is_made_again_or_named(finished, settings, tmp_path, name, kind):
    folder = shutil.copytree(finished, tmp_path / "run")
    rng = np.random.default_rng([KINDS.index(kind), *name.encode()])
    (folder / name).write_bytes(damaged((folder / name).read_bytes(), kind, rng))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    if name == "config.json":
        with pytest.raises(InputError, match=str(folder)):
            pipeline.run(settings, folder)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        return
    report = pipeline.run(settings, folder)
    assert contents(folder) == contents(finished)
    assert report.read_text().rstrip().endswith("</html>")
    assert json.loads((folder / "run.json").read_text())["seconds"]
    for path, digest in files.read_sums(folder / files.SUMS).items():
        assert files.intact(folder / path), digest


def test_an_undamaged_run_is_not_touched(finished, settings):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in finished.iterdir()}
    pipeline.run(settings, finished)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in finished.iterdir()}
    assert after == before


def test_another_model_in_the_same_place_is_another_experiment(finished, settings, tmp_path):
    """Of the same shape, size and time."""
    folder = shutil.copytree(finished, tmp_path / "run")
    weights = Path(settings.model) / "model.safetensors"
    status, content = weights.stat(), weights.read_bytes()
    try:
        tiny.write_model(tmp_path / "model", seed=1)
        shutil.copyfile(tmp_path / "model" / "model.safetensors", weights)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(
            InputError, match=r"config\.model_files.*model\.safetensors is .* there"
        ):
            pipeline.run(settings, folder)
    finally:
        weights.write_bytes(content)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    pipeline.run(settings, folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"junk", b"\x93NUMPY"])
def test_arrays_that_are_none(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    for read in (files.read_arrays, stability.load):
        with pytest.raises(InputError, match="is not a whole npz file"):
            read(path)
    np.savez(path, jaccard=np.zeros(3))
    with pytest.raises(InputError, match="does not hold bootstraps"):
        stability.load(path)
