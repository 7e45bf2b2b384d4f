"""Do the blurs of a run lose as much as its texture does? Measured by scikit-image, on its files.

    python tests/bench/matched_runs.py --sets ../shared/data/places20 ../shared/data/scenes15

For every size, three fixations (centre, a corner, off-centre), two fields of view and every set, a
stage-1 run on `--pictures` of SET/test/CLASS, spread over the classes. Prints for both blurs the
gap of mean SSIM, blur less texture, by scikit-image's `structural_similarity` on the pictures that
the run has written, the largest gap of a zone as the run has it, and where outer zones were joined;
then how many gaps are within the tolerance. A blur that the run leaves out, since no sigma comes
near, is counted apart. Exit code 1 where a blur that was written is off by more.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from foveation_jax.config import transforms_run
from foveation_jax.jobs import pictures
from foveation_jax.transforms.matched import TOLERANCE, load

BLURS = ("uniform_blur", "foveation_blur")
PLACES = {"centre": None, "corner": (0.0, 0.0), "off-centre": (0.3, 0.7)}  # of the height and width
FIELDS = (26.0, 13.0)


def chosen(folder: Path, count: int, into: Path) -> Path:
    """Copies `count` pictures of FOLDER/test/CLASS, spread over the classes; where they are."""
    files = sorted(path for path in (folder / "test").glob("*/*") if path.is_file())
    into.mkdir(parents=True)
    for number in np.linspace(0, len(files) - 1, count).round().astype(int):
        shutil.copy(files[number], into / f"{files[number].parent.name}-{files[number].name}")
    return into


def mean_ssim(folder: Path, system: str) -> float:
    """Of a system's pictures against Reference's, as scikit-image has it."""
    paths = sorted((folder / "reference").rglob("*.png"))
    pairs = [(path, folder / system / path.relative_to(folder / "reference")) for path in paths]
    options = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "data_range": 255}
    values = [
        structural_similarity(
            *(np.asarray(Image.open(path)) for path in pair),
            use_sample_covariance=False,
            **options,
        )
        for pair in pairs
    ]
    return float(np.mean(values))


def gaps(images: Path, size: int, place: str, field: float, route: str, workdir: Path) -> dict:
    """Blur -> its gap and the run's record, of one run; None for a blur that is left out."""
    config = transforms_run()
    config.images, config.size, config.field_of_view = str(images), (size, size), field
    config.route, config.metrics, config.report_images = route, ("ssim",), 1
    at = PLACES[place]
    if at is not None:
        config.fixation = tuple(round(share * (size - 1), 1) for share in at)
    config.lock()
    found = pictures.run(config, workdir)
    target = mean_ssim(workdir, "foveation_texture")
    return {
        blur: (mean_ssim(workdir, blur) - target, load(workdir / f"{blur}.json"))
        if blur in found.matches
        else None
        for blur in BLURS
    }


def main():
    """Print a row a run, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--route", default="pyramid")
    options = parser.parse_args()
    right, off, left_out, largest = 0, 0, 0, dict.fromkeys(BLURS, 0.0)
    with tempfile.TemporaryDirectory() as base:
        jax.config.update("jax_compilation_cache_dir", f"{base}/programs")  # both sets run them
        views = itertools.product(options.sizes, PLACES, FIELDS, options.sets)
        for number, (size, place, field, folder) in enumerate(views):
            begun = time.monotonic()
            images = chosen(folder, options.pictures, Path(base, f"{number}", "images"))
            found = gaps(images, size, place, field, options.route, images.parent / "run")
            print(f"{size} px, {place}, {field:.0f} degrees, {folder.name}:", end="")
            for blur, result in found.items():
                if result is None:
                    left_out += 1
                    print(f" {blur} left out;", end="")
                    continue
                gap, record = result
                held = abs(gap) <= TOLERANCE
                right, off = right + held, off + (not held)
                largest[blur] = max(largest[blur], abs(gap))
                joined = record.joined_from_deg
                text = "" if joined is None else f", one zone from {joined:.1f} degrees"
                print(f" {blur} {gap:+.4f} (zones {record.largest_gap:.4f}{text});", end="")
            print(f" {time.monotonic() - begun:.0f} s", flush=True)
            jax.clear_caches()
    sizes = ", ".join(f"{blur} {gap:.4f}" for blur, gap in largest.items())
    print(f"within {TOLERANCE}: {right}; beyond: {off}; left out: {left_out}; largest gap: {sizes}")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    main()
