"""Compiles the tables of hot programs for TPU slices that are not at hand, with the real compiler.

    ./run.sh lower                              a v5e chip and a 2 x 2 slice
    ./run.sh lower --topology=v5p:2x2x2 --model="Llama 70B" --mesh=data:1,model:8

A row each: seconds to compile, and by chip: GiB of arguments and of temporaries, TFLOP and GB that
go through its memory, and what it sends to others (how many collectives of which kind, GB). Nothing
is run. FLOP and bytes are the compiler's own count, which takes a loop's body once.
"""

import argparse
import functools
import re
import sys
import time

import jax
from jax.experimental import topologies

from circuits_jax.runs import devices as language
from foveation_jax.runs import devices as vision
from tests.accelerators import circuits_programs, foveation_programs

GIB = 2**30
COLLECTIVE = re.compile(
    r"= (\(?[a-z0-9\[\],{}: ()_TS#/*=]*?\)?) "
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"(pred|[a-z]+(\d+))\[([\d,]*)\]")
HEAD = "| program | chips | s | arguments | temporaries | TFLOP | GB | collectives | GB sent |"
PAPER = {"width": 1.0, "side": 256, "batch": 128}


def traffic(text: str) -> tuple[str, float]:
    """Collectives by kind, and the bytes of what they give, in a compiled program's text."""
    counts, total = {}, 0.0
    for shapes, kind in COLLECTIVE.findall(text):
        counts[kind] = counts.get(kind, 0) + 1
        for _, bits, sides in ARRAY.findall(shapes):
            size = functools.reduce(
                lambda n, side: n * int(side), filter(None, sides.split(",")), 1
            )
            total += size * int(bits or 8) / 8
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "none", total


def row(name: str, program, chips: int) -> str:
    """A line of the table; of a program that does not compile, the reason in its place."""
    start = time.monotonic()
    try:
        compiled = program.traced().lower(lowering_platforms=("tpu",)).compile()
    except Exception as error:  # the compiler's own words are the result
        return f"| {name} | {chips} | fails: {' '.join(str(error).split())[:160]} |"
    seconds = time.monotonic() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    kinds, sent = traffic(compiled.as_text())
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    numbers = (
        f"{seconds:.0f}",
        f"{held / GIB:.2f}",
        f"{memory.temp_size_in_bytes / GIB:.2f}",
        f"{cost.get('flops', 0) / 1e12:.3f}",
        f"{cost.get('bytes accessed', 0) / 1e9:.1f}",
    )
    return f"| {name} | {chips} | {' | '.join(numbers)} | {kinds} | {sent / 1e9:.3f} |"


def tables(model: str, options) -> dict:
    """Name -> what makes the program, for the mesh in use."""
    if model in circuits_programs.BY_NAME:
        return circuits_programs.BY_NAME[model](pairs=options.pairs, tokens=options.tokens)
    if model == "stage 1":
        return foveation_programs.stage1(16, 256)
    return foveation_programs.training(model, options.runs, precision=options.precision, **PAPER)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", action="append", help="such as v5e:2x2, v5p:2x2x2")
    parser.add_argument("--mesh", default="", help="data:N,model:N; all along data by default")
    parser.add_argument("--model", action="append", help="GPT-2 XL, Llama 8B, alexnet, stage 1 ...")
    parser.add_argument("--only", action="append", help="a part of the programs' names")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--precision", default="bfloat16")
    options = parser.parse_args()
    models = options.model or ["GPT-2 small", "stage 1", "alexnet", "resnet18"]
    print(f"{HEAD}\n|{' --- |' * 9}", flush=True)
    for topology in options.topology or ["v5e:1x1", "v5e:2x2"]:
        one = set(topology.partition(":")[2].split("x")) == {"1"}
        extra = {"chips_per_host_bounds": [1, 1, 1]} if one else {}
        chips = topologies.get_topology_desc(topology, platform="tpu", **extra).devices
        mesh = vision.mesh_of(options.mesh, list(chips))
        language.use(mesh)
        vision.use(mesh)
        for model in models:
            for name, program in tables(model, options).items():
                if any(part in name for part in options.only or [""]):
                    print(row(f"{model}, {name}, {topology}", program, len(chips)), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())
