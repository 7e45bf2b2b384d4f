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


OPTIMISED = """
import numpy as np
from circuits_jax.lm.made.planted import load
from circuits_jax import interpose
from flax.linen.module import _global_interceptor_stack
assert False, "assertions are to be off"
model = load("planted:2x2")
batch = model.tokenize(model.tokenizer.decode([1, 2, 3]).split("|"))
before = np.asarray(interpose.last_logits(model.config, model.params, batch))
interpose.capture(model.config, model.params, batch, lambda heads: heads.z * 0)
none = np.zeros((2, 1, 1, *model.config.heads[1:], model.config.head_width), np.float32)
zero = np.zeros(model.config.heads, np.float32)
ablated = interpose.replace(model.config, model.params, batch, zero, none)
interpose.last_logits.clear_cache()
after = np.asarray(interpose.last_logits(model.config, model.params, batch))
print(np.array_equal(before, after), np.array_equal(before, ablated))
print(len(_global_interceptor_stack))
"""


def test_no_interceptor_stays_where_python_leaves_out_assertions(monkeypatch):
    """Flax takes its interceptors away within an `assert`."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    assert run(OPTIMISED).stdout.split() == ["True", "False", "0"]
