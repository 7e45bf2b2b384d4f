"""`./run.sh test` stops at the first check that fails, before the tests."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = ["ruff check .", "ruff format --check .", "mypy"]


def called(folder: Path, failing: str | None, *more: str) -> tuple[int, list[str]]:
    """Exit code of `./run.sh test` in a copy whose tools only note how they are called."""
    for name in ("run.sh", "setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("python", "ruff", "mypy"):
        script = tools / tool
        script.write_text(
            f'#!/bin/sh\nsaid="$(echo {tool} "$@")"\n'
            f'echo "$said" >>log\n[ "$said" != "{failing}" ]\n'
        )
        script.chmod(0o755)
    done = subprocess.run(["bash", "run.sh", "test", *more], cwd=folder, check=False)
    told = (folder / "log").read_text().splitlines()
    installing = "python -m pip", "python -m compileall"
    return done.returncode, [line for line in told if not line.startswith(installing)]


@pytest.mark.parametrize("failing", CHECKS)
def test_a_check_that_fails_ends_it(tmp_path, failing):
    code, told = called(tmp_path, failing)
    assert code != 0
    assert told == CHECKS[: CHECKS.index(failing) + 1]


def test_tests_follow_the_checks(tmp_path):
    code, told = called(tmp_path, None)
    assert (code, told) == (0, [*CHECKS, "python -m pytest"])


def test_coverage_is_asked_for(tmp_path):
    code, told = called(tmp_path, None, "--coverage", "tests/circuits/codes")
    assert (code, told[-1]) == (0, "python -m pytest --cov tests/circuits/codes")
