"""Two processes of one device each end as one does; where one is killed, the other ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.circuits import tiny

ROOT = Path(__file__).parents[2]


def start(folder, workdir, *flags):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [
        *(sys.executable, "-m", "circuits_jax.main"),
        f"--config={ROOT}/configs/circuits/custom.py",
        f"--config.model={folder}/model",
        f"--config.task.path={folder}/task.jsonl",
        *("--config.task.n=3", "--config.stability.n=0", "--config.evaluate.n_random=1"),
        "--config.evaluate.ablations=('resample',)",
        f"--compilation_cache_dir={folder}/cache",
        f"--workdir={workdir}",
        *flags,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=folder, **pipes)


def both(folder, workdir):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    where = f"--coordinator_address=localhost:{port}", "--num_processes=2"
    return [start(folder, workdir, *where, f"--process_id={i}") for i in range(2)]


def ended(process, seconds=240):
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    tiny.write_model(folder / "model")
    tiny.write_task(folder / "task.jsonl", tiny.pairs(9))
    return folder


def test_two_processes_end_as_one_and_only_the_first_writes(folder):
    first, second = both(folder, folder / "two")
    for process in (first, second):
        code, out, err = ended(process)
        assert code == 0, err
        assert ("Report" in out) == (process is first)
    assert ended(start(folder, folder / "one"))[0] == 0
    one, two = (np.load(folder / name / "scores.npz") for name in ("one", "two"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert (folder / "one/circuit.json").read_bytes() == (folder / "two/circuit.json").read_bytes()


def test_where_one_is_killed_the_other_ends_within_a_minute(folder):
    first, second = both(folder, folder / "killed")
    while not (folder / "killed" / "config.json").exists():  # both are at work
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    code = ended(first, 60)[0]
    ended(second)
    assert code != 0  # whether by our sentence or by the runtime's: by what it was waiting for
