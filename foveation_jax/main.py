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

and of the other two:

    --config.images=FOLDER        of pictures, with class sub-folders or not; tfds:NAME;
                                  without it, the embedded scenes and photographs
    --config.size="(256, 256)"    rows and columns that every picture is brought to
    --config.scale=0.4            window width over eccentricity
    --config.fixation="(0, 128)"  row and column in pixels; without it, the centre
    --config.route=pyramid        or disarray; or vgg, with --config.weights=FILE
    --config.systems="('raw', 'cortical_magnification')"

The file of a config says what each of its fields means. A run that was stopped goes on where it was
when the same command is given again. Compiled programs are kept in --compilation_cache_dir.
--helpfull lists every flag.

Exit codes: 0 done, 2 bad input or flags (one sentence on standard error), 130 interrupted.
"""

import difflib
import importlib
import logging
import pathlib
import re
import runpy
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from foveation_jax.errors import InputError

# `config.job` -> module whose run(config, workdir) does it
JOBS = {
    "systems": "foveation_jax.pipeline",
    "transforms": "foveation_jax.stage1",
    "train_decoder": "foveation_jax.vgg_training",
}

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment, configs/foveation/*.py.")
WORKDIR = flags.DEFINE_string("workdir", "runs/foveation", "Folder for all that the run writes.")
CACHE = flags.DEFINE_string(
    "compilation_cache_dir", "~/.cache/foveation_jax", "Compiled programs; empty for no cache."
)


def run_job(_) -> int:
    """Runs the job that the config names, in the working folder; prints what it made."""
    import jax

    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)  # orbax tells of every file
    if CONFIG.value is None:
        raise InputError(
            "--config is missing: name an experiment, such as configs/foveation/transforms.py."
        )
    if CACHE.value:
        cache = str(pathlib.Path(CACHE.value).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    config, workdir = CONFIG.value, pathlib.Path(WORKDIR.value)
    if config.get("job") not in JOBS:
        raise InputError(
            f"config.job is {config.get('job')!r}: it must be one of {', '.join(JOBS)}."
        )
    for line in importlib.import_module(JOBS[config.job]).run(config, workdir).lines():
        print(line)
    return 0


def _parse(arguments: list[str]) -> list[str]:
    """Absl's parsing, with every complaint as an InputError."""
    if {"--help", "-help", "-h"} & set(arguments):
        print(__doc__)
        sys.exit(0)
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            list(CONFIG.value)  # a config file that cannot be loaded complains when it is used
    except AttributeError as error:
        raise InputError(_unknown_field(str(error), arguments)) from None
    except (
        flags.Error,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        ImportError,
        SyntaxError,
    ) as error:
        raise InputError(_one_sentence(error)) from None
    if len(rest) > 1:
        raise InputError(f"{rest[1]!r} is no flag: flags are written --name=value.")
    return rest


def _unknown_field(message: str, arguments: list[str]) -> str:
    """Which --config.FIELD does not exist, and the fields that do, nearest first."""
    named = re.search(r"'([\w.]+)'", message.replace("\\", ""))
    field = named.group(1) if named else message
    # The failed parse leaves no config behind, so its file is run again.
    paths = re.findall(r"^--?config[=\n](.+)$", "\n".join(arguments), re.MULTILINE)
    known = list(runpy.run_path(paths[-1])["get_config"]()) if paths else []
    near = difflib.get_close_matches(field, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return f"--config.{field}: the experiment has no such field; {hint}"


def _one_sentence(error: Exception) -> str:
    """An exception's first words as one line."""
    return " ".join(str(error).split())[:400]


def main() -> None:
    """Entry point of the command."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # which back ends are absent is no news
    try:
        app.run(run_job, flags_parser=_parse)
    except InputError as error:
        print(f"foveation_jax: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("foveation_jax: stopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
