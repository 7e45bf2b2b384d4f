"""Races stage 1 against the published algorithm, and training against PyTorch, in this very run.

    ./run.sh bench foveation
    ./run.sh bench foveation --part training

Stage 1: prints seconds an image of Foveation-Texture at 512 x 512 in a batch, by the default route
and by the pyramid, and refined; of plain PyTorch NeuroFovea (neurofovea_torch.py), and their ratio;
how time grows with pixels and with the number of regions; the blurs; and the peak memory of a batch
of 32 at 256 x 256, in a process of its own. Every time is the least of several runs, without
compilation.

Training: images a second over all runs of AlexNet in one program (3 runs, batch 32, 128 x 128, or
as the flags say), of a plain PyTorch loop that trains the runs one after another
(networks_torch.py), and of the input pipeline alone; the three take turns, and the best of each
counts. On an accelerator, also the fraction of `--peak` (TFLOP/s of the device).
"""

import argparse
import multiprocessing
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RIVAL = Path(__file__).with_name("neurofovea_torch.py")
TRAINING_RIVAL = Path(__file__).with_name("networks_torch.py")
INPUT = Path(__file__).with_name("input_pipeline.py")


def seconds_an_image(name: str, size: int, batch: int, repeats: int = 3, **options) -> float:
    """Least time an image of a system over a batch of noise images."""
    import jax

    import foveation_jax as fj

    images = jax.random.uniform(jax.random.key(0), (batch, size, size, 3))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        fj.transform(name, images, jax.random.key(1), **options).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times[1:]) / batch


def peak_gigabytes(queue) -> None:
    """Peak resident memory of a process that transforms 32 images of 256 x 256."""
    seconds_an_image("foveation_texture", 256, 32, repeats=1)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def random_weights(folder: str) -> str:
    """A file of a VGG19 encoder and decoder with random weights: time does not depend on them."""
    import jax

    from foveation_jax.vgg import encoder_decoder, weight_files

    key = jax.random.key(0)
    encoder = {"color": {"kernel": jax.numpy.eye(3)[None, None], "bias": jax.numpy.zeros(3)}}
    for name, (inputs, outputs) in encoder_decoder.layer_shapes((2, 2, 4)).items():
        kernel = jax.random.normal(key, (3, 3, inputs, outputs)) / (3 * inputs**0.5)
        encoder[name] = {"kernel": kernel, "bias": jax.numpy.zeros(outputs)}
    path = Path(folder) / "random.safetensors"
    weight_files.save_weights(path, encoder, encoder_decoder.init_decoder(key, encoder))
    return str(path)


def make_race(options: argparse.Namespace):
    """A function that trains for `options.steps` and gives images a second over all runs."""
    import jax
    import numpy as np

    from foveation_jax.networks import flops, make_network
    from foveation_jax.runs.mesh import runs_mesh, shard_runs
    from foveation_jax.training.optimiser import Recipe
    from foveation_jax.training.step import Setup, init_state, make_step

    size = (options.size, options.size)
    network = make_network(options.network, 20)
    recipe = Recipe(batch_size=options.train_batch, precision=options.precision)
    setup = Setup(network, recipe, options.runs, 0, 1000 * options.train_batch, size)
    step, state = make_step(setup), init_state(setup)
    draw = np.random.default_rng(0)
    shape = (options.runs, options.train_batch)
    images = draw.integers(0, 256, (*shape, *size, 3), dtype=np.uint8)
    labels = draw.integers(0, 20, shape, dtype=np.int32)
    batch = shard_runs((images, labels), runs_mesh(options.runs))
    state, _ = jax.block_until_ready(step(state, *batch))

    def rate() -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(options.steps):
            state, loss = step(state, *batch)
        loss.block_until_ready()
        return options.steps * labels.size / (time.perf_counter() - start)

    return rate, 3 * flops(network, size)


def printed_rate(command: list) -> float:
    """The number of a script's line "images_a_second: X"."""
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"images_a_second: ([\d.]+)", output)[1])


def race_training(options: argparse.Namespace) -> None:
    """Ours, the rival's and the input pipeline's images a second, in turns."""
    rate, step_flops = make_race(options)
    flags = ["--runs", str(options.runs), "--batch", str(options.train_batch)]
    flags += ["--size", str(options.size), "--steps", str(options.steps)]
    rival = [options.rival, TRAINING_RIVAL, "--network", options.network, *flags]
    ours, theirs = [], []
    for _ in range(options.turns):
        ours.append(rate())
        if options.rival:
            theirs.append(printed_rate(rival))
    what = f"{options.network}, {options.runs} runs, batch {options.train_batch}, {options.size} px"
    print(f"training {what}: {max(ours):.1f} images a second ({min(ours):.1f} to {max(ours):.1f})")
    if theirs:
        spread = f"{max(theirs):.1f} ({min(theirs):.1f} to {max(theirs):.1f})"
        ratio = max(ours) / max(theirs)
        print(f"PyTorch, one run after another: {spread}; ours is {ratio:.2f} times as fast")
    if options.peak:
        share = max(ours) * step_flops / (options.peak * 1e12)
        print(f"{max(ours) * step_flops / 1e12:.2f} TFLOP/s, {share:.1%} of {options.peak} TFLOP/s")
    feed = printed_rate([sys.executable, INPUT, *flags[:6]])
    times = feed / max(ours)
    print(
        f"input pipeline alone: {feed:.0f} images a second, {times:.0f} times as many", flush=True
    )


def main():
    """Measure and print, one line a number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", help="a Python that has torch; without it, no race")
    parser.add_argument("--part", choices=("stage1", "training", "all"), default="all")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--network", default="alexnet", choices=("alexnet", "resnet18", "vgg11"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--train_batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--precision", default="float32", help="of Recipe")
    parser.add_argument("--peak", type=float, default=0, help="TFLOP/s of the device")
    options = parser.parse_args()
    if options.part != "stage1":
        race_training(options)
    if options.part != "training":
        race_stage1(options)


def race_stage1(options: argparse.Namespace) -> None:
    """Time and memory of the transforms, and of the rival."""
    texture = seconds_an_image("foveation_texture", 512, options.batch)
    print(f"texture, 512 x 512, batch {options.batch}: {texture:.3f} s an image", flush=True)
    spent = seconds_an_image("foveation_texture", 512, options.batch, route="pyramid")
    print(f"pyramid: {spent:.3f} s an image, disarray {texture / spent:.2f} times", flush=True)
    steps = 33
    spent = seconds_an_image("foveation_texture", 256, options.batch, refinement=steps)
    print(f"refined by {steps} steps, 256: {spent:.2f} s an image", flush=True)
    if options.rival:
        command = [options.rival, RIVAL, "--size", "512", "--images", "2"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(output.rstrip())
        rival = total_seconds(output)
        print(f"NeuroFovea in PyTorch: {rival:.2f} s an image")
        print(f"texture against it: {rival / texture:.1f} times faster", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            weights = random_weights(folder)
            options_of = {"route": "vgg", "weights": weights}
            spent = seconds_an_image("foveation_texture", 512, 2, **options_of)
        print(f"vgg route, 512 x 512: {spent:.2f} s an image, {rival / spent:.2f} times faster")
    for size in (128, 256, 512):
        spent = seconds_an_image("foveation_texture", size, options.batch)
        print(f"texture, {size}: {spent * 1e9 / size**2:.0f} ns a pixel", flush=True)
    for scale in (0.25, 0.4, 0.7):
        spent = seconds_an_image("foveation_texture", 512, options.batch, scale=scale)
        print(f"texture, 512, s = {scale}: {spent:.3f} s an image", flush=True)
    for name in ("reference", "uniform_blur", "foveation_blur"):
        spent = seconds_an_image(name, 256, options.batch)
        print(f"{name}, 256: {spent:.3f} s an image", flush=True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_gigabytes, args=(queue,))
    process.start()
    print(f"peak memory, batch of 32 at 256: {queue.get():.2f} GB")
    process.join()


def total_seconds(output: str) -> float:
    """Seconds an image, from the rival's line "...: 4.321 s an image (...)"."""
    found = re.search(r"([\d.]+) s an image", output)
    if not found:
        sys.exit(f"no time in the rival's output: {output!r}")
    return float(found[1])


if __name__ == "__main__":
    main()
