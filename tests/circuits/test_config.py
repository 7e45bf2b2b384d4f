"""Config files and their values, before any job begins: a sentence for whatever is wrong."""

import importlib
import os
import re
import signal
import subprocess
import sys

import pytest

from circuits_jax import pipeline
from circuits_jax.config import comparison, experiment, paper_table, sweeps
from circuits_jax.lm.load import load_model
from circuits_jax.runs import command
from circuits_jax.runs.errors import InputError

CONFIG = "from circuits_jax.config import experiment\ndef get_config():\n    config = "
CONFIG_FILES = {
    "def get_config(:": ("SyntaxError", "line 1"),
    b"x = '\xff'": "SyntaxError",
    "x = '\0'": "Error",
    "import nothing_of_that_name": ("ModuleNotFoundError in line 1", "nothing_of_that_name"),
    "def get_config():\n    return 1 / 0": "ZeroDivisionError in line 2: division by zero",
    "raise SystemExit": "SystemExit in line 1",
    "def get_config():\n    get_config()": "RecursionError",
    "config = 1": "defines no get_config()",
    "get_config = 1": "defines no get_config()",
    "def get_config(a, b):\n    return a": "TypeError",
    "get_config = dict": "gives dict, not a ConfigDict",
    "get_config = print": "gives NoneType, not a ConfigDict",
    "from ml_collections import ConfigDict as get_config": "the config file sets no config.",
    f"{CONFIG}experiment('ioi').unlock()\n    del config.seed\n    return config": (
        "the config file sets no config.seed"
    ),
    f"{CONFIG}experiment('ioi').unlock()\n    del config.circuit.size\n    return config": (
        "the config file sets no config.circuit.size"
    ),
    f"{CONFIG}experiment('ioi').to_dict()\n    return config": "gives dict, not a ConfigDict",
    f"{CONFIG}experiment('ioi').unlock()\n    config.sed = 1\n    return config": (
        "unknown field of config 'sed'; did you mean config.seed?"
    ),
    f"{CONFIG}experiment('ioi')\n    return type(config)(config.to_dict() | {{'seed': '5'}})": (
        "config.seed is '5'; it must be of type int"
    ),
    f"{CONFIG}experiment('ioi')\n    return type(config)(config.to_dict() | {{'seed': True}})": (
        "config.seed is True; it must be of type int"
    ),
    f"{CONFIG}experiment('ioi')\n    return type(config)(config.to_dict() | {{'circuit': 3}})": (
        "config.circuit is 3; it must be a section of fields"
    ),
}


@pytest.mark.parametrize("text", CONFIG_FILES)
def test_config_files_that_are_none(tmp_path, text):
    path = tmp_path / "config.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        command.check_values(command.load_config(str(path)), experiment(""))
    parts = CONFIG_FILES[text]
    for part in parts if isinstance(parts, tuple) else (parts,):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", ".", "no\0thing", "\udcff.py", "n" * 300])
def test_config_paths_that_are_none(path):
    with pytest.raises(InputError, match="which is no file"):
        command.load_config(path)


def test_a_config_file_with_an_argument(tmp_path):
    path = tmp_path / "config.py"
    text = CONFIG.replace("get_config()", "get_config(task)")
    path.write_text(f"{text}experiment(task)\n    return config")
    config = command.load_config(f"{path}:docstring")
    assert config == experiment("docstring")
    name = command.default_workdir(config, f"{path}:docstring").name
    assert re.fullmatch("config-[0-9a-f]{8}", name)
    config.seed = 1
    assert command.default_workdir(config, str(path)).name != name


VALUES = {
    "seed": (-1, 2**32, 2**63, 10**20, 10**5000),
    "task.n": (10**20,),
    "circuit.fraction": (float("nan"), float("inf")),
    "circuit.threshold": (float("-inf"),),
    "evaluate.curve": ((0.5, float("nan")), ("nan",), ("(float('nan')", ")")),
    "evaluate.ablations": ((1,),),
    "sae_codes.l1": (float("nan"),),
    "model": ("\udcff", "a\0b", "\ud800"),
    "task.name": ("\0",),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in VALUES for value in VALUES[field]],
    ids=lambda x: repr(x) if not isinstance(x, int) else hex(x)[:9],
)
def test_values_that_no_job_can_use(field, value):
    config = experiment("ioi")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"^config\.{field} (is|has) ") as caught:
        pipeline.check(config)
    assert len(str(caught.value)) < 300


def test_all_jobs_check_their_values():
    for job, make in {"compare": comparison, "sweep": sweeps}.items():
        config = make("ioi")
        config.seed = 2**32
        with pytest.raises(InputError, match=r"config\.seed is 4294967296; allowed are 0 to"):
            importlib.import_module(f"circuits_jax.jobs.{job}").check(config)
    config = paper_table()
    config.trained = 2**70
    with pytest.raises(InputError, match=r"config\.trained is "):
        importlib.import_module("circuits_jax.jobs.paper_table").check(config)


@pytest.mark.parametrize("name", ["/nope", "./nope", "../nope/", "~/no/pe", "a/b/c", "nope/"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(name):
    with pytest.raises(InputError, match="is no folder or file"):
        load_model(name)


def heeding_ctrl_c():
    """A shell starts what runs in the background, these tests maybe, with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("package", ["circuits_jax", "foveation_jax"])
@pytest.mark.parametrize("module", ["interrupt", "jax"])
def test_ctrl_c_while_the_command_imports(package, module):
    """Sent when Python has imported so much: at the very beginning, and when all is there."""
    arguments = ["-X", "importtime", "-m", f"{package}.main"]
    with subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=heeding_ctrl_c,
    ) as process:
        last = {"interrupt": f"{package}.runs.interrupt"}.get(module, module)
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == last:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    name = package.replace("_", "-")
    assert f"{name}: stopped; the same command goes on from here" in said.splitlines()
