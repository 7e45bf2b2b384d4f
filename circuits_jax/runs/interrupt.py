"""Ctrl-C while a command still imports: one sentence, as later, and no traceback.

The package imports this first. `main` gives the signal back as soon as it runs.
"""

import os
import signal
import sys
from typing import NoReturn

COMMAND = "circuits_jax".replace("_", "-")
STOPPED = f"{COMMAND}: stopped; the same command goes on from here"


def stop(*_) -> NoReturn:
    """Say so and leave at once: nothing has been begun that would have to be ended."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)


def is_command() -> bool:
    """Whether this process is the command, not a program that imports the library."""
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    return program == COMMAND or "circuits_jax.main" in sys.orig_argv


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)
