"""Both commands' small configs on processes x devices: do all end with the same results?

    ./run.sh install && .venv/bin/python -m tests.accelerators.layouts --layout 1x1 2x2 4x1

A row for each: how far its results are from those of the first, and the exit codes. `--kill` kills
the last process of each that has several, and says how long the others went on, and their sentence.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests.circuits import tiny

ROOT = pathlib.Path(__file__).parents[2]
SYSTEM = (
    "--config.systems=('reference',)",
    "--config.keep_epochs=(3,)",
    "--config.metrics=()",
)


def arguments(library: str, folder: pathlib.Path) -> list[str]:
    """The flags of a library's small config."""
    if library == "foveation_jax":
        return [f"--config={ROOT}/configs/foveation/smoke.py", *SYSTEM]
    if not (folder / "model").exists():
        tiny.write_model(folder / "model")
        tiny.write_task(folder / "task.jsonl", tiny.pairs(9))
    return [
        f"--config={ROOT}/configs/circuits/custom.py",
        f"--config.model={folder}/model",
        f"--config.task.path={folder}/task.jsonl",
        *("--config.task.n=3", "--config.stability.n=0", "--config.evaluate.n_random=1"),
        "--config.evaluate.ablations=('resample',)",
    ]


def free_port() -> int:
    """Where a coordinator can listen."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def launch(
    library: str, folder: pathlib.Path, workdir: pathlib.Path, processes: int = 1, devices: int = 1
) -> list[subprocess.Popen]:
    """The processes of a run, each with its devices, started; compiled as this one compiles."""
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",  # the last counts
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", f"{library}.main", *arguments(library, folder)]
    command += [f"--compilation_cache_dir={folder}/cache", f"--workdir={workdir}"]
    where = f"--coordinator_address=localhost:{free_port()}", f"--num_processes={processes}"
    each = [[*where, f"--process_id={i}"] if processes > 1 else [] for i in range(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([*command, *flags], env=environment, cwd=folder, **pipes) for flags in each
    ]


def ended(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; killed after so long."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def results(library: str, workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """What a run has found, by name."""
    if library == "circuits_jax":
        return dict(np.load(workdir / "scores.npz"))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("kind") == "epoch"]
    names = "train_loss", "test_loss", "test_accuracy"
    return {
        f"{name}, epoch {row['epoch']}": np.array(row[name], float)
        for row in rows
        for name in names
        if None not in row[name]
    }


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> str:
    """Where two runs' results differ most, for each name."""
    far = {name: float(np.max(np.abs(one[name] - other[name]), initial=0)) for name in one}
    told = ", ".join(f"{name} {value:.1e}" for name, value in far.items() if value)
    return told or "the same bits"


def killed(processes: list[subprocess.Popen], begun: pathlib.Path) -> str:
    """How the others end when the last is killed while all are at work."""
    while not begun.exists():
        time.sleep(0.05)
        assert all(p.poll() is None for p in processes)
    processes[-1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    told = [(ended(p, 120)[::2], time.monotonic() - start) for p in processes[:-1]]
    ended(processes[-1])
    return "; ".join(
        f"exit {code} after {seconds:.0f} s: {err.strip().splitlines()[-1][:120]}"
        for (code, err), seconds in told
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", nargs="+", default=["circuits_jax", "foveation_jax"])
    parser.add_argument("--layout", nargs="+", default=["1x1", "1x2", "1x4", "2x1", "2x2", "4x1"])
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    for library in options.library:
        folder, first = pathlib.Path(tempfile.mkdtemp()), None
        for layout in options.layout:
            shape = tuple(map(int, layout.split("x")))
            workdir = folder / layout
            processes = launch(library, folder, workdir, *shape)
            if options.kill and len(processes) > 1:
                begun = {"circuits_jax": "config.json", "foveation_jax": "metrics.jsonl"}[library]
                print(f"| {library} | {layout} | {killed(processes, workdir / begun)} |")
                processes = launch(library, folder, workdir, *shape)
            codes = [ended(process, 1800) for process in processes]
            if any(code for code, *_ in codes):
                print(f"| {library} | {layout} | fails: {codes[0][2][-300:]} |", flush=True)
                continue
            found = results(library, workdir)
            first = first or found
            print(f"| {library} | {layout} | {apart(first, found)} |", flush=True)


if __name__ == "__main__":
    main()
