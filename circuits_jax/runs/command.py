"""The command's flags and config file; whatever is wrong with them becomes one sentence."""

import difflib
import gc
import hashlib
import json
import math
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_dict

from circuits_jax.runs import interrupt
from circuits_jax.runs.errors import InputError

SEEDS = 2**32  # JAX takes a seed modulo this: a larger one would be another's double


def main(run: Callable[[list[str]], int | None], text: str) -> None:
    """Parse the flags and run: exit code 2 and a sentence for bad input, 130 for Ctrl-C.

    Args:
        run: given what is no flag, as `absl.app.run` does.
        text: what --help prints.
    """
    gc.freeze()  # what is imported stays: no garbage is looked for in it, nor at the very end
    try:
        if signal.getsignal(signal.SIGINT) is interrupt.stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app.run(run, flags_parser=lambda argv: _parse(argv, text))
    except InputError as error:
        print(f"{interrupt.COMMAND}: {error}", file=sys.stderr)
        sys.exit(2)
    except (AttributeError, KeyError) as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename != config_dict.__file__:
            raise
        print(f"{interrupt.COMMAND}: the config file sets no {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupt.STOPPED, file=sys.stderr)
        sys.exit(130)


def default_workdir(config: ml_collections.ConfigDict, file: str) -> Path:
    """runs/NAME-HASH: the same config always gives the same folder, another one another."""
    resolved = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return Path("runs") / f"{_path(file).stem}-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}"


def check_values(
    config: ml_collections.ConfigDict, template: ml_collections.ConfigDict | None = None
) -> None:
    """Refuse values that no job can use, whatever their fields mean.

    Args:
        config: of a job.
        template: a config with all its fields, where one is known.

    Raises:
        InputError: a field that is missing or of another type, a number that is not finite or
            beyond 64 bits, a seed that JAX would cut, text that is not UTF-8.
    """
    if template is not None:
        _check_fields(config, template, "config")
    for name, value in _leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} is {value}; allowed are finite numbers")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(f"{name} is {_short(value)}; allowed are numbers of 64 bits")
        if isinstance(value, str) and not _is_text(value):
            raise InputError(f"{name} is {value!r}; allowed is UTF-8 text without NUL characters")
    seed = config.get("seed", 0)
    if not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise InputError(f"config.seed is {_short(seed)}; allowed are 0 to {SEEDS - 1}")


def _leaves(value: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    """Every value below, with the name of the field that holds it."""
    if isinstance(value, ml_collections.ConfigDict | dict):
        for key in value:
            yield from _leaves(value[key], f"{name}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _leaves(item, name)
    else:
        yield name, value


def _is_text(value: str) -> bool:
    return "\0" not in value and value.encode(errors="replace") == value.encode(
        errors="surrogatepass"
    )


def _short(value: Any) -> str:
    """A value in a sentence; Python refuses to print whole numbers of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 2**200:
        return f"a number of {value.bit_length()} bits"
    return repr(value)


def _check_fields(config: Any, template: ml_collections.ConfigDict, name: str) -> None:
    """The fields and their types; the options of a task are the task's own to check."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{name} is {config!r}; it must be a section of fields")
    for field in template:
        if field not in config:
            raise InputError(f"the config file sets no {name}.{field}; every field is needed")
        value, wanted = config[field], template[field]
        if isinstance(wanted, ml_collections.ConfigDict):
            _check_fields(value, wanted, f"{name}.{field}")
            continue
        kind = template.get_type(field) if wanted is None else type(wanted)
        known: Any = {float: (float, int), tuple: (tuple, list), list: (tuple, list)}
        types = known.get(kind, kind)
        if wanted is None and value is None:
            continue
        if not isinstance(value, types) or isinstance(value, bool) != (kind is bool):
            raise InputError(f"{name}.{field} is {value!r}; it must be of type {kind.__name__}")
        if isinstance(wanted, tuple) and wanted and value:
            number = isinstance(wanted[0], int | float)
            for item in value:
                if isinstance(item, int | float) != number:
                    allowed = "numbers" if number else "names"
                    raise InputError(f"{name}.{field} has {item!r}; it must hold {allowed}")
    extra = [field for field in config if field not in template]
    if extra and name != "config.task":
        raise InputError(_unknown(template, name, extra[0]))


def _parse(argv: list[str], text: str) -> list[str]:
    """Absl's parsing, and the config's; every complaint is an InputError."""
    if {"--help", "-help", "-h"} & set(argv):
        print(text)
        sys.exit(0)
    named = _flags_of(argv[1:])
    files = [value for name, value in named if name == "config"]
    if len(files) > 1:
        raise InputError(f"--config is given {len(files)} times; give one config file")
    if files:
        _check_named(load_config(files[0]), [name for name, _ in named])
    try:
        rest = flags.FLAGS(argv)
        if files:
            _ = flags.FLAGS.config.keys()  # what cannot be read of it shows only here
    except Exception as error:  # absl, ml_collections and the types of fields raise their own
        raise InputError(_one_line(error)) from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; options are --name=value, see --help")
    return rest


def _flags_of(arguments: list[str]) -> list[tuple[str, str]]:
    """Name and value of every flag, as absl reads them: --name=value or --name value."""
    named = []
    for i, argument in enumerate(arguments):
        if argument == "--":
            break
        if match := re.match(r"--?([\w.]+)(=?)(.*)", argument, re.DOTALL):
            name, equals, value = match.groups()
            named.append((name, value if equals else "".join(arguments[i + 1 : i + 2])))
    return named


def _check_named(config: ml_collections.ConfigDict, names: list[str]) -> None:
    """Refuse a field that the config does not have, and a value given twice."""
    for flag in names:
        dotted = flag.removeprefix("no") if flag.startswith("noconfig.") else flag
        section, *fields = dotted.split(".")
        if section != "config" or not fields:
            continue
        node = config
        for field in fields:
            if not isinstance(node, ml_collections.ConfigDict) or field not in node:
                raise InputError(_unknown(config, section, field))
            node, section = node[field], f"{section}.{field}"
        if names.count(flag) > 1 and not isinstance(node, tuple | list):  # those may be repeated
            raise InputError(f"--{flag} is given {names.count(flag)} times; give it once")


def _unknown(config: ml_collections.ConfigDict, section: str, field: str) -> str:
    """The sentence on a field that is not there: the nearest of any depth, and its neighbours."""
    known = [name for name in _sections(config) if name != "config"]

    def likeness(name: str) -> tuple[float, float]:
        last = difflib.SequenceMatcher(None, name.rpartition(".")[2], field).ratio()
        return last, difflib.SequenceMatcher(None, name, f"{section}.{field}").ratio()

    near = max(known, key=likeness, default=None)
    close = near is not None and likeness(near)[0] >= 0.5
    hint = f"; did you mean {near}?" if close else ";"
    beside = sorted(name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section)
    return f"unknown field of {section} {field!r}{hint} allowed: {', '.join(beside) or 'none'}"


def _sections(value: Any, name: str = "config") -> Iterator[str]:
    """Every field by its dotted name, sections too."""
    yield name
    if isinstance(value, ml_collections.ConfigDict):
        for field in value:
            yield from _sections(value[field], f"{name}.{field}")


def _path(file: str) -> Path:
    """The file of `FILE` or of `FILE:ARGUMENT`, which get_config takes."""
    return Path(file.partition(":")[0])


def load_config(file: str) -> ml_collections.ConfigDict:
    """What a config file's get_config() gives.

    Raises:
        InputError: no such file, no Python, no get_config(), or one that fails (says in which
            line) or gives no ConfigDict.
    """
    path, _, argument = file.partition(":")
    if not os.path.isfile(path):
        raise InputError(f"--config is {path!r}, which is no file; give a Python file of a config")
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise InputError(f"{path} defines no get_config(), which gives the config")
        config = get_config(argument) if argument else get_config()
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a file of one's own may raise anything, SystemExit too
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f" in line {lines[-1]}" if lines else ""
        kind = type(error).__name__
        raise InputError(f"{path} is no config: {kind}{where}: {_one_line(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"get_config() of {path} gives {type(config).__name__}, not a ConfigDict")
    return config


def _one_line(error: BaseException) -> str:
    """An exception's first words."""
    return " ".join(str(error).split())[:400] or type(error).__name__
