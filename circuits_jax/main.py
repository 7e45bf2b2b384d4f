"""Find the attention heads of a language model that do a task, from about ten prompts.

    circuits-jax --config=configs/circuits/ioi.py --workdir=DIR [--config.FIELD=VALUE ...]
    circuits-jax diff RUN RUN ... [--workdir=DIR]     finished runs side by side

Configs: ioi.py, greater_than.py, docstring.py, induction.py, compiled.py, planted.py and custom.py
find the circuit of a task; compare.py runs all methods on one; sweep.py moves the settings of the
discrete-code method; paper_table.py makes the paper's table; judge.py judges the circuit in a file,
whoever found it. Fields that are often set:

    --config.model=smollm2      or a Hugging Face hub id, a local folder, a GGUF file
    --config.adapter=FOLDER     LoRA weights that are merged into the model
    --config.task.n=5           pairs of prompts that the method learns from
    --config.task.n_held_out=10 pairs that judge the circuit; 0 for all others of a file
    --config.task.path=FILE     a file of JSON lines, for custom.py
    --config.method=sae_codes   or sae_codes_published, exact_patching, attribution,
                                attribution_ig, eap, eap_ig, relp, acdc, hisp, cdt,
                                subnetwork_probing, mean_difference, random, or
                                several together, such as sae_codes+attribution
    --config.seed=0             of prompts and autoencoders
    --config.circuit.size=68    heads in the circuit; or .fraction=0.25, or .threshold

All fields and their values in this run are written to DIR/config.json. A run that was stopped goes
on where it was when the same command is given again. Without --workdir the results are in
runs/NAME-HASH. Compiled programs are kept in --compilation_cache_dir. --helpfull lists every flag.
"""

import importlib
import os
import sys
from logging import WARNING, Formatter, getLogger
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import config_flags

from circuits_jax.report import page
from circuits_jax.runs import command, devices
from circuits_jax.runs.errors import InputError, unknown_name

# `config.job` -> module whose run(config, workdir) does it and gives the path of its report
JOBS = {
    "circuit": "circuits_jax.pipeline",
    "judge": "circuits_jax.pipeline",
    "compare": "circuits_jax.jobs.compare",
    "sweep": "circuits_jax.jobs.sweep",
    "paper_table": "circuits_jax.jobs.paper_table",
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

devices.define_flags()


def main() -> None:
    """The command `circuits-jax`: bad input ends it with one sentence and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # no PyTorch is no fault
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    getLogger("jax").setLevel(WARNING)
    if sys.argv[1:2] == ["diff"]:
        runs = [given for given in sys.argv[2:] if not given.startswith("-")]
        sys.argv[1:] = [given for given in sys.argv[2:] if given.startswith("-")]
        return command.main(lambda _: _diff(runs), __doc__)
    command.main(_run, __doc__)


def _diff(runs: list[str]) -> None:
    report = importlib.import_module("circuits_jax.jobs.diff").run(runs, _WORKDIR.value)
    page.index_runs(report.parent)
    print(f"Report: {report.resolve()}")


def _run(_) -> None:
    config = _CONFIG.value
    if config is None:
        raise InputError("--config is missing; give a file such as configs/circuits/ioi.py")
    job = config.get("job")
    if job not in JOBS:
        raise InputError(unknown_name("config.job", job, JOBS))
    if _CACHE.value:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(_CACHE.value))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    devices.join()
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    run = importlib.import_module(JOBS[job]).run
    workdir = Path(_WORKDIR.value or command.default_workdir(config, file))
    with devices.folder_of_this_process(workdir) as folder:
        report = run(config, folder)
    if jax.process_index() == 0:
        page.index_runs(workdir)
        print(f"Report: {report.resolve()}")


if __name__ == "__main__":
    main()
