"""Two commands on one folder: one finishes as if alone, the other ends with exit code 2.

    python tests/bench/two_commands.py --offsets 0 0.5 1.5 4 8 12 20 30

For both packages, the second command is started so many seconds after the first. What is left in
the folder is compared, byte for byte, with that of a command that was alone: all that is found, but
for times, versions and pages. Exit code 1 where a pair does anything else.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Package -> arguments of its command, and the files that say what was found.
COMMANDS = {
    "foveation_jax": (
        ("--config=configs/foveation/smoke.py",
         "--config.systems=('reference', 'foveation_texture')", "--config.limit_train=4",
         "--config.limit_test=2", "--config.recipe.batch_size=8", "--config.width=0.0625"),
        ("claims.csv", "curves.csv", "dynamics.csv", "probes/**/*", "perceived/**/*.npy"),
    ),
    "circuits_jax": (
        ("--config=configs/circuits/compiled.py",),
        ("circuit.json", "scores.npz", "stability.npz", "metrics.jsonl", "*.csv"),
    ),
}  # fmt: skip


def start(package: str, folder: Path, cache: Path) -> subprocess.Popen:
    """The package's command on a folder."""
    options = (*COMMANDS[package][0], f"--workdir={folder}", f"--compilation_cache_dir={cache}")
    return subprocess.Popen(
        [sys.executable, "-m", f"{package}.main", *options],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def found(package: str, folder: Path) -> dict[str, bytes]:
    """Name -> content of the files that say what was found."""
    paths = {path for name in COMMANDS[package][1] for path in folder.glob(name)}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(paths) if p.is_file()}


def last_line(said: str) -> str:
    """The sentence that a command ends with."""
    return (said.strip().splitlines() or [""])[-1]


def tried(package: str, folder: Path, cache: Path, offset: float, expected) -> bool:
    """Start two commands, print what became of them, and say whether that is right."""
    first = start(package, folder, cache)
    time.sleep(offset)
    over = first.poll() is not None
    second = start(package, folder, cache)
    said = [command.communicate()[1] for command in (first, second)]
    codes = [command.returncode for command in (first, second)]
    same = found(package, folder) == expected
    told = last_line(said[codes.index(2)]) if 2 in codes else ""
    told = "the first was over" if over and codes == [0, 0] else told
    right = same and (over or (sorted(codes) == [0, 2] and "is in use by another run" in told))
    state = "as alone" if same else "NOT as alone"
    print(f"{package} {offset:5.1f} s: exit {codes}, {state}; {told[:100]}", flush=True)
    return right


def main():
    """Try every offset in both packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offsets", type=float, nargs="+", default=[0, 0.5, 1.5, 4, 8, 12, 20, 30])
    parser.add_argument("--packages", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    options = parser.parse_args()
    right = []
    for package in options.packages:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            begun = time.monotonic()
            alone = start(package, base / "alone", base / "cache")
            said = alone.communicate()[1]
            if alone.returncode:
                sys.exit(f"{package} alone: exit {alone.returncode}: {last_line(said)}")
            expected = found(package, base / "alone")
            rows = {n: c.count(b"\n") for n, c in expected.items() if n.endswith("s.csv")}
            seconds = time.monotonic() - begun
            print(
                f"{package} alone: {seconds:.0f} s, {len(expected)} files, rows {rows}", flush=True
            )
            for offset in options.offsets:
                place = base / f"at-{offset}"
                right.append(tried(package, place, base / "cache", offset, expected))
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
