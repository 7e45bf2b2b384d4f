"""Makes the matched sigmas that ship with foveation_jax, and checks them on other photographs.

    python tests/bench/match_blurs.py --images=../shared/data/places20

Brings photographs of FOLDER/*/CLASS to 256 x 256, shows them to the default Foveation-Texture
(disarray, s = .4, 26 degrees), matches both blurs on SSIM (first on about 100 images, then from
there on `--count`), writes foveation_jax/assets/*.json and prints sigma and gap, also for as
many other photographs, taken in turn with the first, which had no part in matching.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import foveation_jax as fj
from foveation_jax.transforms.matched import ASSETS, save

SIZE = 256


def photographs(folder: Path, count: int) -> jnp.ndarray:
    """`count` photographs evenly over the classes of a folder, [N, 256, 256, 3]."""
    files = sorted(folder.glob("*/*/*.jpg"))
    files = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
    images = [Image.open(f).convert("RGB").resize((SIZE, SIZE), Image.BICUBIC) for f in files]
    return jnp.asarray(np.stack(images), jnp.float32) / 255


def texture(images: jnp.ndarray, key) -> jnp.ndarray:
    """Default texture, with other displacements for every 4 images: SSIM hangs on them."""
    keys = jax.random.split(key, -(-len(images) // 4))
    parts = [images[i : i + 4] for i in range(0, len(images), 4)]
    return jnp.concatenate(
        [fj.transform("foveation_texture", p, k) for p, k in zip(parts, keys, strict=True)]
    )


def main():
    """Match, check, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    options = parser.parse_args()
    both = photographs(options.images, 2 * options.count)
    images, others = both[::2], both[1::2]
    textured = texture(images, jax.random.key(1))
    others_textured = texture(others, jax.random.key(2))
    few = slice(None, None, max(1, options.count // 100))
    for system in ("uniform_blur", "foveation_blur"):
        first = fj.match(
            images[few], textured[few], jax.random.key(3), system=system, tolerance=0.01
        )
        record = fj.match(
            images, textured, jax.random.key(4), system=system, start=first,
            description="foveation_texture, disarray route",
        )  # fmt: skip
        origin = f"shipped sigmas, matched on {len(images)} colour photographs of 20 scene classes"
        save(dataclasses.replace(record, origin=origin), options.assets / f"{system}.json")
        checked = fj.check_match(record, others, others_textured, jax.random.key(5))
        print(record.sentence(), checked.sentence(), sep="\n")
        print(f"{system}: eccentricity, sigma (deg), sigma (px), SSIM, gap, gap on other images")
        for row in zip(
            record.eccentricity_deg, record.sigma_deg, record.target_value, record.gap, checked.gap,
            strict=True,
        ):  # fmt: skip
            eccentricity, sigma, value, gap, other = row
            print(
                f"{eccentricity:6.2f} {sigma:7.4f} {sigma * SIZE / 26:7.2f} {value:7.4f} "
                f"{gap:+.4f} {other:+.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
