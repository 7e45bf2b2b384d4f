"""Both libraries on the device at hand, each row beside its rival in this very run.

    ./run.sh bench accelerator                  all rows
    ./run.sh bench accelerator --only codes     those whose name holds a word
    ./run.sh bench accelerator --small          the sizes of a CPU, which it takes there by itself

prints a JSON line a row. Rows of one process each, so that the peak of its memory is its own:

    peak           a product of bfloat16 matrices: what `share_of_peak` is a share of
    training/*     paired runs, in TF32 and in bfloat16, against PyTorch in the same precision
                   (bfloat16 with channels last), the runs one after another
    eye movements  the same network trained on textures made in the step, against prepared images
    texture/*      Foveation-Texture, ms an image in batches, float32 products, all finite
    codes/*        `sae_codes` with edges, warm, against `attribution` and exact patching of all
                   heads, on random weights in the shapes of GPT-2 small, GPT-2 XL and Llama 8B
    first call/*   `sae_codes` in a fresh process, with an empty and with a full compilation cache
    autoencoders   all heads' autoencoders in the full basis, 500 steps

Ours and rivals take turns, devices are waited for, compilation is apart; of every time the least of
`--turns` counts. `peak_gigabytes` is what the allocator of the device says, where it says it.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import warnings

import jax
import jax.numpy as jnp

RIVAL = pathlib.Path(__file__).with_name("networks_torch.py")
ROOT = pathlib.Path(__file__).parents[2]
TRAINING = {  # runs, batch, pixels, steps; the paper's, and what a CPU does in seconds
    False: {"runs": 10, "batch": 128, "size": 256, "steps": 20},
    True: {"runs": 2, "batch": 4, "size": 64, "steps": 1},
}
TEXTURES = {False: ((256, 64), (512, 16)), True: ((64, 4),)}  # pixels, images at once
AUTOENCODERS = {False: (1200, 1600), True: (12, 64)}  # heads, width
SHAPES = {False: ("GPT-2 small", "GPT-2 XL", "Llama 8B"), True: ("tiny",)}
NETWORKS = {False: ("alexnet", "resnet18"), True: ("alexnet",)}
FAST = ("tensorfloat32", "bfloat16")
PRECISIONS = {False: FAST, True: ("float32",)}


def seconds(function, turns: int = 1) -> float:
    """Least wall time of some calls, device included."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def say(name: str, **values) -> None:
    """One line of results, with what the device's memory held at most."""
    memory = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        values["peak_gigabytes"] = memory["peak_bytes_in_use"] / 1e9
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"bench": name, **rounded}), flush=True)


def peak(options: argparse.Namespace) -> None:
    """TFLOP a second of a large product."""
    side = 512 if options.small else 8192
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    seconds(lambda: product(a))
    spent = seconds(lambda: product(a), 10 * options.turns)
    say("peak", side=side, tflop_a_second=2 * side**3 / spent / 1e12)


def trained(network: str, precision: str, sizes: dict[str, int], perceive=None):
    """A function that trains some steps of all runs, and the FLOPs of an image in training."""
    import numpy as np

    from foveation_jax.networks import flops, make_network
    from foveation_jax.runs.mesh import shard_runs
    from foveation_jax.training.optimiser import Recipe
    from foveation_jax.training.step import Setup, init_state, make_step

    runs, batch, side = sizes["runs"], sizes["batch"], (sizes["size"],) * 2
    module = make_network(network, 20)
    recipe = Recipe(batch_size=batch, precision=precision)
    setup = Setup(module, recipe, runs, 0, 1000 * batch, side, perceive)
    draw, shape = np.random.default_rng(0), (runs, batch)
    images = draw.integers(0, 256, (*shape, *side, 3), dtype=np.uint8)
    labels = draw.integers(0, 20, shape, dtype=np.int32)
    step, state = make_step(setup), init_state(setup)
    shown = shard_runs((images, labels), setup.mesh)
    state, _ = jax.block_until_ready(step(state, *shown))

    def some():
        nonlocal state
        for _ in range(sizes["steps"]):
            state, loss = step(state, *shown)
        return loss

    return some, 3 * flops(module, side)


def training(options: argparse.Namespace, network: str, precision: str) -> None:
    """Images a second of all runs, the rival's, and the ratio."""
    sizes = TRAINING[options.small]
    some, cost = trained(network, precision, sizes)
    images = sizes["runs"] * sizes["batch"] * sizes["steps"]
    command = [options.rival, RIVAL, "--network", network, "--precision", precision]
    command += [x for name, value in sizes.items() for x in (f"--{name}", str(value))]
    ours, theirs = [], []
    for _ in range(options.turns):
        ours.append(images / seconds(some))
        if options.rival:
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            theirs.append(float(re.search(r"images_a_second: ([\d.]+)", said)[1]))
            where = re.search(r"device: (\S+)", said)[1]
    values = {"images_a_second": max(ours), "tflop_a_second": max(ours) * cost / 1e12}
    if theirs:
        values |= {"torch": max(theirs), "times_torch": max(ours) / max(theirs), "torch_on": where}
    say(f"training/{network}/{precision}", **sizes, **values)


def eye_movements(options: argparse.Namespace) -> None:
    """Training on textures about drawn fixations, against training on prepared images."""
    from foveation_jax.stage1.perceived import on_the_fly

    sizes = TRAINING[options.small] | {"steps": 2}
    precision = PRECISIONS[options.small][-1]
    moving = on_the_fly("foveation_texture", eye_movements="uniform")
    ways = {
        "prepared": trained("alexnet", precision, sizes)[0],
        "on_the_fly": trained("alexnet", precision, sizes, moving)[0],
    }
    images = sizes["runs"] * sizes["batch"] * sizes["steps"]
    rates = {name: images / seconds(some, options.turns) for name, some in ways.items()}
    share = rates["on_the_fly"] / rates["prepared"]
    say("eye movements", **rates, share_of_prepared=share)


def texture(options: argparse.Namespace, side: int, batch: int) -> None:
    """Milliseconds an image."""
    import foveation_jax as fj

    images = jax.random.uniform(jax.random.key(0), (batch, side, side, 3))

    def see():
        return fj.transform("foveation_texture", images, jax.random.key(1))

    cold = seconds(see)
    spent = seconds(see, options.turns)
    finite = bool(jnp.isfinite(see()).all())
    say(
        f"texture/{side}",
        batch=batch,
        milliseconds=1000 * spent / batch,
        cold_seconds=cold,
        finite=finite,
    )


def random_model(shape: str):
    """A model of random weights in a known shape, with the embedded model's tokenizer."""
    from circuits_jax.decoder.decoder import initial_params
    from circuits_jax.lm.language_model import LanguageModel
    from circuits_jax.lm.load import open_model
    from tests.accelerators import circuits_programs as table

    config, dtype = {
        "GPT-2 small": (table.gpt2(12, 12), jnp.float32),
        "GPT-2 XL": (table.gpt2(48, 25), jnp.float32),
        "Llama 8B": (table.llama(32, 32, 14336), jnp.bfloat16),
        "tiny": (table.gpt2(2, 2), jnp.float32),
    }[shape]

    @jax.jit
    def params():
        made = initial_params(config, jax.random.key(0))
        return jax.tree.map(lambda x: x.astype(dtype), made)

    return LanguageModel(shape, config, params(), open_model("smollm2").tokenizer)


def called(shape: str, method: str):
    """A function that scores the heads by a method, from 5 + 5 prompts."""
    import circuits_jax as cj

    model = random_model(shape)
    task = cj.make_task("ioi", model.tokenizer, n=5)

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cj.TaskWarning)  # random weights do no task
            scores = cj.discover(model, task, method)
        return scores.head_scores, scores.edge_scores

    return call


def codes(options: argparse.Namespace, shape: str) -> None:
    """Our scores against those of two rivals, in turns."""
    ways = {name: called(shape, name) for name in ("sae_codes", "attribution", "exact_patching")}
    for way in ways.values():
        seconds(way)
    times = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, way in ways.items():
            times[name].append(seconds(way))
    least = {name: min(values) for name, values in times.items()}
    ratios = {f"of_{name}": least["sae_codes"] / least[name] for name in list(ways)[1:]}
    say(f"codes/{shape}", **least, **ratios)


def first_call(options: argparse.Namespace, shape: str) -> None:
    """Seconds of the first call in this process."""
    call = called(shape, "sae_codes")
    say(f"first call/{options.cache}", shape=shape, seconds=seconds(call))


def autoencoders(options: argparse.Namespace) -> None:
    """Full basis: every head's autoencoder in all dimensions of the model."""
    from circuits_jax.codes import fit, sae

    heads, width = AUTOENCODERS[options.small]
    x = jax.random.normal(jax.random.key(0), (heads, 10, width))
    steps = 500

    def train():
        return fit.fit(jax.random.key(1), x, sae.SaeConfig(steps=steps), d_model=width)

    cold = seconds(train)
    spent = seconds(train, options.turns)
    codes_of = sae.SaeConfig().n_codes
    flop = heads * steps * 6 * 2 * 10 * width * codes_of
    say(
        "autoencoders",
        heads=heads,
        width=width,
        seconds=spent,
        cold_seconds=cold,
        tflop_a_second=flop / spent / 1e12,
    )


def rows(options: argparse.Namespace) -> dict:
    """Name -> what measures it."""
    small = options.small
    measured = {"peak": peak}
    for network in NETWORKS[small]:
        for precision in PRECISIONS[small]:
            way = functools.partial(training, network=network, precision=precision)
            measured[f"training/{network}/{precision}"] = way
    measured["eye movements"] = eye_movements
    for side, batch in TEXTURES[small]:
        measured[f"texture/{side}"] = functools.partial(texture, side=side, batch=batch)
    for shape in SHAPES[small]:
        measured[f"codes/{shape}"] = functools.partial(codes, shape=shape)
    for cache in ("empty", "full"):
        measured[f"first call/{cache}"] = functools.partial(first_call, shape=SHAPES[small][0])
    return measured | {"autoencoders": autoencoders}


def main() -> int:
    """One row of a name, or each in a process of its own; 1 where one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rival", help="a Python that has torch; without it, no race against it")
    parser.add_argument("--only", default="", help="a part of the rows' names")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="sizes of a CPU")
    parser.add_argument("--row", help="measure this one in this process")
    parser.add_argument("--cache", default="", help="state of the compilation cache, as given")
    options = parser.parse_args()
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu" and not options.small:
        options.small = True
        print("there is no accelerator here: small sizes, which say nothing of one", flush=True)
    if options.row:
        rows(options)[options.row](options)
        return 0
    say("machine", device=kind, devices=jax.device_count(), jax=jax.__version__)
    chosen = [name for name in rows(options) if options.only in name]
    failed = []
    with tempfile.TemporaryDirectory() as cache:
        for name in chosen:
            with apart(cache, name):
                command = [sys.executable, "-m", "tests.bench.accelerator", "--row", name]
                command += ["--turns", str(options.turns), "--cache", name.partition("/")[2]]
                command += ["--small"] * options.small
                command += ["--rival", options.rival] if options.rival else []
                if subprocess.run(command, cwd=ROOT).returncode:
                    failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


@contextlib.contextmanager
def apart(cache: str, name: str):
    """The first calls share a compilation cache that the first of them finds empty."""
    before = dict(os.environ)
    if name.startswith("first call"):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    sys.exit(main())
