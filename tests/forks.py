"""A command line after another, each in a process of its own, without paying for imports again.

One process imports the library, and forks for each line.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

FORKS = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")  # of forking a process that may have threads; it has none yet
name, *others = sys.argv[1:]
main = importlib.import_module(f"{name}.main")
for other in others:
    importlib.import_module(other)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream, path in (1, order["out"]), (2, order["err"]):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.chdir(order["folder"])
        sys.argv = [name.replace("_", "-"), *order["arguments"]]
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
main.main()
"""


@contextlib.contextmanager
def forks(package: str, folder: Path, *modules: str):
    """Runs command lines of a package in `folder`; `modules` are imported before, once.

    Gives a function from arguments to the exit code, what was printed, and its errors.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS, package, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    out, err = folder / "out", folder / "err"

    def run(*arguments):
        order = {"folder": str(folder), "out": str(out), "err": str(err), "arguments": arguments}
        print(json.dumps(order), file=process.stdin, flush=True)
        code = int(process.stdout.readline())
        return SimpleNamespace(code=code, out=out.read_text(), err=err.read_text())

    yield run
    process.stdin.close()
    process.wait()
    process.stdout.close()
