"""Importing the library is quick and brings no heavy package with it."""

import os
import subprocess
import sys

HEAVY = ("transformers", "torch", "tensorflow", "sklearn", "matplotlib", "gguf", "jinja2")
SCRIPT = f"""
import sys, time
start = time.process_time()
import circuits_jax
print(time.process_time() - start)
print(*(name for name in {HEAVY} if name in sys.modules))
print(*(name for name in circuits_jax.__all__ if not hasattr(circuits_jax, name)))
"""


def run(script):
    command = [sys.executable, "-W", "error::DeprecationWarning:circuits_jax", "-c", script]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_import_is_quick_and_light():
    seconds, heavy, missing = run(SCRIPT).stdout.split("\n")[:3]
    assert heavy == ""
    assert missing == ""
    assert float(seconds) < 2  # of processor time, so that a busy machine does not matter
