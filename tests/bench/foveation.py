"""Races the stage-1 transforms against the published algorithm, on this machine, in this run.

    ./run.sh bench foveation

Prints seconds an image of Foveation-Texture by the pyramid route at 512 x 512 in a batch, of plain
PyTorch NeuroFovea (neurofovea_torch.py), and their ratio; how time grows with pixels and with the
number of regions; the blurs; and the peak memory of a batch of 32 at 256 x 256, in a process of its
own. Every time is the least of several runs, without compilation.
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

    from foveation_jax import vgg, vgg_weights

    key = jax.random.key(0)
    encoder = {"color": {"kernel": jax.numpy.eye(3)[None, None], "bias": jax.numpy.zeros(3)}}
    for name, (inputs, outputs) in vgg.layer_shapes((2, 2, 4)).items():
        kernel = jax.random.normal(key, (3, 3, inputs, outputs)) / (3 * inputs**0.5)
        encoder[name] = {"kernel": kernel, "bias": jax.numpy.zeros(outputs)}
    path = Path(folder) / "random.safetensors"
    vgg_weights.save_weights(path, encoder, vgg.init_decoder(key, encoder))
    return str(path)


def main():
    """Measure and print, one line a number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", help="a Python that has torch; without it, no race")
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    texture = seconds_an_image("foveation_texture", 512, options.batch)
    print(
        f"pyramid texture, 512 x 512, batch {options.batch}: {texture:.3f} s an image", flush=True
    )
    if options.rival:
        command = [options.rival, RIVAL, "--size", "512", "--images", "2"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(output.rstrip())
        rival = total_seconds(output)
        print(f"NeuroFovea in PyTorch: {rival:.2f} s an image")
        print(f"pyramid against it: {rival / texture:.1f} times faster", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            weights = random_weights(folder)
            vgg = seconds_an_image("foveation_texture", 512, 2, route="vgg", weights=weights)
        print(f"vgg route, 512 x 512: {vgg:.2f} s an image, {rival / vgg:.2f} times faster")
    for size in (128, 256, 512):
        spent = seconds_an_image("foveation_texture", size, options.batch)
        print(f"pyramid texture, {size}: {spent * 1e9 / size**2:.0f} ns a pixel", flush=True)
    for scale in (0.25, 0.4, 0.7):
        spent = seconds_an_image("foveation_texture", 512, options.batch, scale=scale)
        print(f"pyramid texture, 512, s = {scale}: {spent:.3f} s an image", flush=True)
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
