"""Speed and memory of circuits_jax against plain PyTorch, and against the plain forward pass.

    ./run.sh bench circuits

prints one JSON line a measurement, with the ratio to the rival, all in one run on one machine.
Rivals and ours take turns; the numbers are medians over `--rounds`.

    autoencoders   10 x 144 x 768 random inputs, 200 codes, 500 steps: our 144 autoencoders in the
                   isometric basis, and our shared one, against PyTorch's shared one
    edges          peak memory of the scores of all head pairs of 1,200 heads, 10 prompts
    capture        every head's pooled output on 20 prompts, against the forward pass alone
    codes          `sae_codes` with all edges of the graph, and of heads alone, against attribution
                   patching, IOI, 5 + 5 prompts: the first call of a process, compilation
                   included, and warm; without the look at whether the model does the task
    bootstrap      100 resamples of prompts and seeds, against one run
    exact          exact patching of all heads, against as many forward passes of the same prompts
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import circuits_jax as cj
from circuits_jax import interpose
from circuits_jax.codes import codes, fit, sae
from circuits_jax.methods import METHODS
from circuits_jax.methods.sae_codes import PUBLISHED, SaeCodes, inputs

EXAMPLES, HEADS, WIDTH = 10, 144, 768
HEADS_ALONE = "sae_codes, heads"
RIVAL = Path(__file__).with_name("sae_torch.py")


def seconds(function, *args) -> float:
    """Wall time of one call, device included."""
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


def say(name: str, **values) -> None:
    """One line of results."""
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"bench": name, **rounded}), flush=True)


def autoencoders(rival: str, rounds: int) -> None:
    """Our two ways of training against PyTorch's one."""
    outputs = jax.random.normal(jax.random.key(0), (EXAMPLES, HEADS, WIDTH))
    config, key = sae.SaeConfig(), jax.random.key(1)

    def train(options):
        x, _ = inputs(outputs, options, head_width=64)
        return fit.fit(key, x, config, d_model=WIDTH)

    ways = {
        "per_head": lambda: train(dataclasses.replace(PUBLISHED, shared=False, basis="isometric")),
        "shared": lambda: train(PUBLISHED),
    }
    cold = {name: seconds(way) for name, way in ways.items()}
    times = {"torch": [], **{name: [] for name in ways}}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
        said = subprocess.run([rival, str(RIVAL)], capture_output=True, text=True, check=True)
        times["torch"].append(json.loads(said.stdout)["seconds"])
    median = {name: statistics.median(values) for name, values in times.items()}
    for name in ways:
        say(
            f"autoencoders/{name}",
            seconds=median[name],
            seconds_cold=cold[name],
            torch_shared_seconds=median["torch"],
            times_faster_than_torch_shared=median["torch"] / median[name],
        )


def edges(n_heads: int = 1200, n_prompts: int = 5) -> None:
    """Memory of the compiled edge scores, as XLA plans it."""
    code = jax.random.randint(jax.random.key(0), (2 * n_prompts, n_heads), 0, 200)
    strength = jnp.ones((n_prompts, n_heads))
    score = jax.jit(lambda p, n, s: codes.directed(codes.evidence_pairs(p, n, s), (48, 25)))
    args = code[:n_prompts], code[n_prompts:], strength
    plan = score.lower(*args).compile().memory_analysis()
    peak = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
    jax.block_until_ready(score(*args))
    say("edges", heads=n_heads, megabytes=peak / 1e6, seconds=seconds(score, *args))


def capture(rounds: int) -> None:
    """Reading every head costs little beside the forward pass."""
    model = cj.load_model("smollm2")
    task = cj.make_task("ioi", model.tokenizer, n=10, n_held_out=1)
    prompts = [*task.learn.positives, *task.learn.negatives]
    batch = model.tokenize(prompts)

    def plain():
        return interpose.last_logits(model.config, model.params, batch)

    def captured():
        return cj.head_outputs(model, prompts, "mean")

    seconds(plain), seconds(captured)
    pairs = [(seconds(captured), seconds(plain)) for _ in range(max(rounds, 5))]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    say("capture", prompts=20, seconds=ours, forward_seconds=theirs, times_forward=ours / theirs)


def first_and_next(method: str, calls: int = 5) -> tuple[float, float]:
    """Seconds of a method's first call in this process, and the median of the next ones."""
    model = cj.load_model("smollm2")
    task = cj.make_task("ioi", model.tokenizer, n=5)
    jax.block_until_ready(model.params)

    name, _, heads = method.partition(", ")
    options = SaeCodes(edges="together") if heads else None

    def call():
        scores = METHODS[name].run(model, task, jax.random.key(0), options)
        return scores.head_scores, scores.edge_scores

    first = seconds(call)
    return first, statistics.median(seconds(call) for _ in range(calls))


def race_methods(rounds: int) -> None:
    """Our codes against attribution patching, each call in a process of its own, in turns."""
    found = {"sae_codes": [], HEADS_ALONE: [], "attribution": []}
    for _ in range(rounds):
        for method, times in found.items():
            command = [sys.executable, __file__, "--only", method]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            times.append(json.loads(said.splitlines()[-1])["seconds"])
    cold, warm = (
        {method: statistics.median(t[i] for t in times) for method, times in found.items()}
        for i in (0, 1)
    )
    for name, times in (("cold", cold), ("warm", warm)):
        shares = {f"{ours} of it": times[ours] / times["attribution"] for ours in list(found)[:2]}
        say(f"codes/{name}", **times, **shares)


def bootstrap(rounds: int) -> None:
    """100 resamples against a single run, both compiled."""
    model = cj.load_model("smollm2")
    task, key = cj.make_task("ioi", model.tokenizer, n=5), jax.random.key(0)

    def single():
        return cj.discover(model, task).head_scores

    def resampled():
        return cj.bootstrap(model, task, key).head_scores

    seconds(single), seconds(resampled)
    pairs = [(seconds(resampled), seconds(single)) for _ in range(rounds)]
    many, one = (statistics.median(column) for column in zip(*pairs, strict=True))
    say("bootstrap", seconds=many, single_seconds=one, times_single=many / one)


def exact() -> None:
    """All 270 heads against 270 forward passes of the same 10 prompts."""
    model = cj.load_model("smollm2")
    task = cj.make_task("ioi", model.tokenizer, n=10, n_held_out=1)
    batch = model.tokenize(task.learn.positives)

    def patched():
        return cj.discover(model, task, "exact_patching").head_scores

    def plain():
        return interpose.last_logits(model.config, model.params, batch)

    seconds(patched), seconds(plain)
    passes = 270 * statistics.median(seconds(plain) for _ in range(5))
    spent = seconds(patched)
    say("exact", seconds=spent, passes_seconds=passes, of_passes=spent / passes)


def main():
    """All measurements, or the times of one method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", help="a Python with PyTorch; without it, no race against it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="a method: the seconds of its first call, and of the next")
    args = parser.parse_args()
    if args.only:
        return say(args.only, seconds=first_and_next(args.only))
    say("machine", devices=[d.device_kind for d in jax.devices()], jax=jax.__version__)
    edges()
    capture(args.rounds)
    race_methods(args.rounds)
    bootstrap(args.rounds)
    exact()
    if args.rival:
        autoencoders(args.rival, args.rounds)


if __name__ == "__main__":
    main()
