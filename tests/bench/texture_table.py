"""How good the textures are: every route beside the original, by ring of eccentricity.

    python tests/bench/texture_table.py --images ../shared/data/places20/test --count 40
    python tests/bench/texture_table.py --pair ../shared/data/neurofovea

Prints one Markdown table: coherence of gradients, correlation with the original and energy by
octave, kurtosis, and the errors of the pooled Portilla-Simoncelli families in deviations of the
original, in rings from 4 degrees out. `--pair` takes a folder with input.png and
published_texture.png and shows the published texture beside ours. `--figures` keeps the pictures.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import foveation_jax as fj
from foveation_jax.data.images import fit_image, read_image, write_png

RINGS = slice(2, 6)  # 4.0 to 19.8 degrees at s = .4
ROUTES = {
    "pyramid": {"route": "pyramid"},
    "disarray": {"route": "disarray"},
    "pyramid, refined": {"route": "pyramid", "refinement": 33},
    "disarray, refined": {"route": "disarray", "refinement": 33},
}


def pictures(folder: str, count: int, size: int) -> jnp.ndarray:
    """As many pictures of each class folder as `count` asks for, spread over the classes."""
    classes = sorted(p for p in pathlib.Path(folder).iterdir() if p.is_dir())
    each = -(-count // len(classes))
    files = [f for c in classes for f in sorted(c.glob("*.jpg"))[:each]]
    chosen = [files[i * len(files) // count] for i in range(count)]
    return jnp.asarray(np.stack([fit_image(read_image(f), (size, size)) for f in chosen]))


def rows(found: fj.TextureStatistics) -> dict[str, np.ndarray]:
    """Name of a row -> values by ring."""
    made = {"coherence": found.coherence[1], "coherence of the original": found.coherence[0]}
    made |= {f"correlation, octave {k}": found.correlation[:, k] for k in (0, 1, 2, 4)}
    made |= {f"energy, octave {k}": found.energy[:, k] for k in range(4)}
    made |= {"kurtosis of octave 1 / original": found.kurtosis[1, :, 1] / found.kurtosis[0, :, 1]}
    made |= {"variance": found.variance, "colour covariance, r": found.colours}
    made |= {f"error, {family}": error for family, error in found.errors.items()}
    return {name: np.asarray(values)[RINGS] for name, values in made.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="folder of class folders of JPEGs")
    parser.add_argument("--pair", help="folder with input.png and published_texture.png")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--routes", nargs="*", default=list(ROUTES), choices=list(ROUTES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=pathlib.Path)
    args = parser.parse_args()
    seen = {}
    if args.pair:
        folder = pathlib.Path(args.pair)
        original = jnp.asarray(read_image(folder / "input.png"))[None]
        seen["published"] = jnp.asarray(read_image(folder / "published_texture.png"))[None]
    else:
        original = pictures(args.images, args.count, args.size)
    key = jax.random.key(args.seed)
    for name in args.routes:
        seen[name] = fj.transform("foveation_texture", original, key, **ROUTES[name])
    tables = {
        name: rows(fj.texture_statistics(original, texture)) for name, texture in seen.items()
    }
    print("| | " + " | ".join(tables) + " |\n| --- |" + " --- |" * len(tables))
    for row in next(iter(tables.values())):
        cells = [" ".join(f"{v:.2f}" for v in table[row]) for table in tables.values()]
        print(f"| {row} | " + " | ".join(cells) + " |")
    if args.figures:
        columns = [original, *seen.values()]
        for n in range(min(10, len(original))):
            write_png(args.figures / f"{n}.png", jnp.concatenate([c[n] for c in columns], 1))


if __name__ == "__main__":
    main()
