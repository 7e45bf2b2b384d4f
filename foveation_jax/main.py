"""What a foveated first stage does to pictures, and to networks that learn from them.

    foveation-jax --config=configs/foveation/transforms.py --config.images=FOLDER --workdir=DIR

Configs: smoke.py, scenes_cpu.py, paper_alexnet.py, paper_resnet18.py (the whole experiment: paired
networks on four systems, probes, a verdict for each claim); transforms.py (pictures as the systems
show them, metrics and a page); train_decoder.py (a decoder for the vgg route). Fields that are
often set, first of the experiment:

    --config.data=FOLDER          that holds train/CLASS/* and test/CLASS/*; tfds:NAME; synthetic
    --config.size="(64, 64)"      rows and columns that every image is brought to
    --config.network=resnet18     or alexnet, vgg11; --config.width=.25 narrows it
    --config.runs=3               paired runs of every system
    --config.recipe.epochs=10     and the other fields of the optimiser
    --config.stage1.scale=0.4     window width over eccentricity
    --config.stage1.fixations=FILE  lines image,y,x: where each image is looked at

and of the other two:

    --config.images=FOLDER        of pictures, with class sub-folders or not; tfds:NAME;
                                  without it, the embedded scenes and photographs
    --config.size="(256, 256)"    rows and columns that every picture is brought to
    --config.scale=0.4            window width over eccentricity
    --config.fixation="(0, 128)"  row and column in pixels; without it, the centre
    --config.route=disarray       or pyramid; or vgg, with --config.weights=FILE
    --config.systems="('raw', 'cortical_magnification')"

The file of a config says what each of its fields means. A run that was stopped goes on where it was
when the same command is given again. Without --workdir the results are in
runs/NAME-HASH, one folder for each config. Compiled programs are kept in --compilation_cache_dir.
--helpfull lists every flag.

Exit codes: 0 done, 2 bad input or flags (one sentence on standard error), 130 interrupted.
"""

import importlib
import logging
import os
import pathlib

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from foveation_jax.report import page
from foveation_jax.runs import command, devices
from foveation_jax.runs.checks import check_allowed
from foveation_jax.runs.errors import InputError

# `config.job` -> module whose run(config, workdir) does it
JOBS = {
    "systems": "foveation_jax.pipeline",
    "transforms": "foveation_jax.jobs.pictures",
    "train_decoder": "foveation_jax.jobs.train_decoder",
}

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment, configs/foveation/*.py.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the results. Default: runs/NAME-HASH, one for each config."
)
CACHE = flags.DEFINE_string(
    "compilation_cache_dir", "~/.cache/foveation_jax", "Compiled programs; empty for no cache."
)

devices.define_flags()


def main() -> None:
    """Entry point of the command."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # which back ends are absent is no news
    command.main(run_job, __doc__)


def run_job(_) -> None:
    """Runs the job that the config names, in the working folder; prints what it made."""
    import jax

    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)  # orbax tells of every file
    config = CONFIG.value
    if config is None:
        raise InputError(
            "--config is missing: name an experiment, such as configs/foveation/transforms.py."
        )
    check_allowed("config.job", config.get("job"), JOBS)
    if CACHE.value:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(CACHE.value))
    devices.join()
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = pathlib.Path(WORKDIR.value or command.default_workdir(config, file))
    run = importlib.import_module(JOBS[config.job]).run
    with devices.folder_of_this_process(workdir) as folder:
        lines = run(config, folder).lines()
    if jax.process_index() == 0:
        page.index_runs(workdir)
        print(*lines, sep="\n")


if __name__ == "__main__":
    main()
