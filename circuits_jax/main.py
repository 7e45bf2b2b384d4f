"""Find the attention heads of a language model that do a task, from about ten prompts.

    circuits-jax --config=configs/circuits/ioi.py --workdir=DIR [--config.FIELD=VALUE ...]

Configs: ioi.py, greater_than.py, docstring.py, induction.py, compiled.py, planted.py and custom.py
find the circuit of a task; compare.py runs all methods on one; sweep.py moves the settings of the
discrete-code method; paper_table.py makes the paper's table. Fields that are often set:

    --config.model=smollm2      or a Hugging Face hub id, a local folder, a GGUF file
    --config.task.n=5           pairs of prompts that the method learns from
    --config.task.n_held_out=10 pairs that judge the circuit; 0 for all others of a file
    --config.task.path=FILE     a file of JSON lines, for custom.py
    --config.method=sae_codes   or sae_codes_published, exact_patching, attribution,
                                attribution_ig, eap, eap_ig, relp, acdc, hisp, cdt,
                                subnetwork_probing, mean_difference, random
    --config.seed=0             of prompts and autoencoders
    --config.circuit.size=68    heads in the circuit; or .fraction=0.25, or .threshold

All fields and their values in this run are written to DIR/config.json. A run that was stopped goes
on where it was when the same command is given again. Without --workdir the results are in
runs/NAME-HASH. Compiled programs are kept in --compilation_cache_dir. --helpfull lists every flag.
"""

import hashlib
import importlib
import json
import os
import runpy
import sys
from logging import WARNING, Formatter, getLogger
from pathlib import Path

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from circuits_jax.errors import InputError, unknown_name

# `config.job` -> module whose run(config, workdir) does it and gives the path of its report
JOBS = {
    "circuit": "circuits_jax.pipeline",
    "compare": "circuits_jax.compare",
    "sweep": "circuits_jax.sweep",
    "paper_table": "circuits_jax.paper_table",
}

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a Python file that defines get_config()."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the results. Default: runs/NAME-HASH, one for each config."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache_dir",
    os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "circuits_jax"),
    "Folder of compiled programs, so that the next run need not compile them; empty for none.",
)


def main() -> None:
    """The command `circuits-jax`: bad input ends it with one sentence and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # no PyTorch is no fault
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    getLogger("jax").setLevel(WARNING)
    try:
        app.run(_run, flags_parser=_parse)
    except InputError as error:
        print(f"circuits-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("circuits-jax: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _run(argv: list[str]) -> None:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; options are --name=value, see --help")
    if _CONFIG.value is None:
        raise InputError("--config is missing; give a file such as configs/circuits/ioi.py")
    if _CACHE.value:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(_CACHE.value))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    job = _CONFIG.value.get("job")
    if job not in JOBS:
        raise InputError(unknown_name("config.job", job, JOBS))
    run = importlib.import_module(JOBS[job]).run
    report = run(_CONFIG.value, _WORKDIR.value or _default_workdir(_CONFIG.value))
    print(f"Report: {report.resolve()}")


def _default_workdir(config: ml_collections.ConfigDict) -> Path:
    """runs/NAME-HASH: the same config always gives the same folder."""
    resolved = json.dumps(config.to_dict(), sort_keys=True)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return Path("runs") / f"{name}-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}"


def _parse(argv: list[str]) -> list[str]:
    """Parse the flags; what cannot be parsed is an InputError."""
    if {"--help", "-help", "-h"} & set(argv):
        print(__doc__)
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        _ = _CONFIG.value and _CONFIG.value.keys()  # a file that cannot be read shows only here
        return rest
    except (AttributeError, KeyError) as error:
        raise InputError(_unknown_field(argv) or f"--config: {error}") from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from error


def _unknown_field(argv: list[str]) -> str | None:
    """A sentence on the first --config.FIELD that the config does not have."""
    values = {}
    for arg, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = arg.lstrip("-").partition("=")
        values[name] = value if equals else following
    config = runpy.run_path(values["config"])["get_config"]()
    for flag in values:
        name, *path = flag.split(".")
        node = config
        for field in path if name == "config" else []:
            known = list(node) if isinstance(node, ml_collections.ConfigDict) else []
            if field not in known:
                return unknown_name(f"field of {name}", field, known)
            node, name = node[field], f"{name}.{field}"
    return None


if __name__ == "__main__":
    main()
