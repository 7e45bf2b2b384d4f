"""Synthetic labelled scenes, the embedded default: global and local cues are both useful.

A scene is painted from back to front in four layers (for example sky, hills, trees, ground). A
layer covers everything below its upper edge; the edge is a level, a wedge, fractal roughness, a row
of blocks or of vertical bars, around a vanishing point that wanders from scene to scene. It is
filled with oriented noise or a lattice, in perspective if it is a ground plane. One row of `LAYERS`
holds all of this for one layer of one class, so rendering has no branch.

Layout (what foveation and low-pass filters keep) tells the classes apart in part, and so does local
texture (what they may lose): some classes share a layout and differ in texture (dunes and ocean,
forest and colonnade), others share a texture and differ in layout. Colours overlap, and light, hue,
horizon and vanishing point vary within a class.
"""

import functools
import math
import threading

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from foveation_jax.data.sources import ImageSource

# Columns of LAYERS, in units of the image's side (edge) and cycles an image (texture).
COLUMNS = (
    "level",  # height of the upper edge, 0 top to 1 bottom; below 0 covers everything
    "wedge",  # slope of the edge away from the vanishing point: > 0 peaks, < 0 valleys
    "reach",  # half width of the wedge's flat top, as of a far wall
    "rough",  # amplitude of fractal roughness of the edge
    "block",  # amplitude of a skyline of blocks
    "bars",  # share of the width that vertical bars cover, 1 for a whole layer
    "frequency",  # centre frequency of the texture
    "angle",  # its orientation in degrees: 0 horizontal stripes, 90 vertical
    "isotropy",  # 0 sharply oriented, 1 all orientations
    "lattice",  # 0 noise, 1 a lattice of cells (windows, tiles)
    "perspective",  # 0 flat, 1 a ground plane that recedes to the horizon
    "contrast",  # deviation of the texture's luminance
    "hue",  # 0 to 1
    "saturation",
    "luminance",
)
SCENE_CLASSES = (
    "canyon", "city", "colonnade", "corridor", "dunes", "field",
    "forest", "mountain", "ocean", "room",
)  # fmt: skip
# level wedge reach rough block bars | frequency angle isotropy lattice perspective contrast | h s l
LAYERS = np.array(
    [
        [  # canyon: cliffs left and right, sky in the gap, a stream below
            [-1, 0, 0, 0, 0, 1, 3, 0, 0.3, 0, 0, 0.03, 0.57, 0.35, 0.80],
            [0.55, -1.6, 0.10, 0.14, 0, 1, 14, 10, 0.15, 0, 0, 0.14, 0.06, 0.45, 0.50],
            [0.72, -0.9, 0.06, 0.08, 0, 1, 22, 15, 0.15, 0, 0, 0.16, 0.04, 0.50, 0.38],
            [0.86, 0.2, 0.05, 0.02, 0, 1, 10, 3, 0.2, 0, 0.6, 0.08, 0.52, 0.25, 0.50],
        ],
        [  # city: far and near skylines with windows, a street
            [-1, 0, 0, 0, 0, 1, 3, 0, 0.3, 0, 0, 0.03, 0.58, 0.25, 0.82],
            [0.45, 0, 0, 0, 0.22, 1, 26, 0, 1, 0.9, 0, 0.10, 0.60, 0.12, 0.58],
            [0.60, -0.35, 0.10, 0, 0.30, 1, 17, 0, 1, 1.0, 0, 0.17, 0.08, 0.15, 0.42],
            [0.84, 0, 0, 0, 0, 1, 9, 0, 0.6, 0, 1, 0.07, 0.60, 0.05, 0.35],
        ],
        [  # colonnade: the layout of the forest, smooth stone in place of bark
            [-1, 0, 0, 0, 0, 1, 5, 0, 0.8, 0, 0, 0.05, 0.10, 0.15, 0.72],
            [0.08, 0, 0, 0, 0, 0.35, 30, 90, 0.05, 0, 0, 0.05, 0.09, 0.14, 0.55],
            [0.00, 0, 0, 0, 0, 0.30, 22, 90, 0.03, 0, 0, 0.09, 0.08, 0.18, 0.68],
            [0.80, 0, 0, 0, 0, 1, 8, 0, 1, 1, 1, 0.10, 0.08, 0.15, 0.45],
        ],
        [  # corridor: walls, ceiling and floor that meet at an end wall
            [-1, 0, 0, 0, 0, 1, 8, 0, 1, 1, 0, 0.04, 0.12, 0.06, 0.80],
            [0.42, -0.80, 0.10, 0, 0, 1, 12, 90, 0.10, 0, 0, 0.05, 0.11, 0.20, 0.66],
            [0.36, 9.0, 0.09, 0, 0, 1, 12, 90, 0.4, 0, 0, 0.04, 0.60, 0.12, 0.52],
            [0.60, 0.80, 0.10, 0, 0, 1, 9, 0, 1, 1, 1, 0.10, 0.08, 0.25, 0.42],
        ],
        [  # dunes: the layout of the ocean, wind ripples
            [-1, 0, 0, 0, 0, 1, 3, 0, 0.3, 0, 0, 0.03, 0.58, 0.35, 0.82],
            [0.46, 0, 0, 0.06, 0, 1, 20, 25, 0.10, 0, 0, 0.05, 0.09, 0.45, 0.62],
            [0.56, 0.15, 0.10, 0.07, 0, 1, 26, 20, 0.05, 0, 0.2, 0.09, 0.08, 0.50, 0.56],
            [0.74, -0.15, 0.05, 0.05, 0, 1, 16, 30, 0.05, 0, 0.4, 0.11, 0.07, 0.52, 0.48],
        ],
        [  # field: hills, a hedge, crops in rows that run to the horizon
            [-1, 0, 0, 0, 0, 1, 3, 0, 0.3, 0, 0, 0.05, 0.58, 0.30, 0.80],
            [0.42, 0, 0, 0.10, 0, 1, 18, 0, 1, 0, 0, 0.05, 0.38, 0.25, 0.52],
            [0.50, 0, 0, 0.05, 0.05, 1, 30, 0, 1, 0, 0, 0.14, 0.30, 0.40, 0.30],
            [0.54, 0, 0, 0.01, 0, 1, 12, 90, 0.05, 0, 1, 0.14, 0.22, 0.50, 0.50],
        ],
        [  # forest: leaves, thin far trunks, thick near trunks, undergrowth
            [-1, 0, 0, 0, 0, 1, 22, 0, 1, 0, 0, 0.16, 0.28, 0.40, 0.50],
            [0.08, 0, 0, 0, 0, 0.35, 34, 80, 0.3, 0, 0, 0.10, 0.10, 0.25, 0.30],
            [0.00, 0, 0, 0, 0, 0.30, 20, 85, 0.3, 0, 0, 0.16, 0.07, 0.30, 0.25],
            [0.80, 0, 0, 0.06, 0, 1, 24, 0, 1, 0, 0.3, 0.17, 0.25, 0.45, 0.32],
        ],
        [  # mountain: two ridges with snow and rock, a meadow
            [-1, 0, 0, 0, 0, 1, 3, 0, 0.3, 0, 0, 0.04, 0.59, 0.40, 0.78],
            [0.20, 0.75, 0.00, 0.16, 0, 1, 16, 50, 0.35, 0, 0, 0.15, 0.60, 0.12, 0.62],
            [0.58, 0.25, 0.05, 0.16, 0, 1, 24, 60, 0.4, 0, 0, 0.13, 0.33, 0.25, 0.36],
            [0.78, 0, 0, 0.03, 0, 1, 26, 0, 1, 0, 0.6, 0.10, 0.27, 0.45, 0.48],
        ],
        [  # ocean: sky, far water, waves, foam and beach
            [-1, 0, 0, 0, 0, 1, 3, 0, 0.3, 0, 0, 0.04, 0.57, 0.30, 0.84],
            [0.46, 0, 0, 0.002, 0, 1, 12, 0, 0.08, 0, 0.9, 0.08, 0.55, 0.45, 0.50],
            [0.60, 0, 0, 0.02, 0, 1, 9, 0, 0.12, 0, 0.8, 0.13, 0.53, 0.40, 0.48],
            [0.80, 0.15, 0.05, 0.04, 0, 1, 30, 0, 1, 0, 0.3, 0.07, 0.10, 0.35, 0.66],
        ],
        [  # room: the corridor's geometry with a wide end wall, furniture in front
            [-1, 0, 0, 0, 0, 1, 6, 0, 1, 0, 0, 0.02, 0.12, 0.08, 0.86],
            [0.18, -0.70, 0.28, 0, 0, 1, 20, 90, 0.03, 0, 0, 0.06, 0.13, 0.22, 0.70],
            [0.70, 0.60, 0.30, 0, 0, 1, 8, 90, 0.10, 0, 1, 0.10, 0.07, 0.40, 0.46],
            [0.70, 0, 0, 0, 0.18, 0.70, 16, 90, 0.1, 0.2, 0, 0.08, 0.02, 0.35, 0.36],
        ],
    ],
    np.float32,
)
OCTAVES, BLOCKS, BARS, WAVES = 6, 11, 7, 48  # of the edge's roughness, per width, of a texture
# Uniform random numbers of a layer; those of a scene are drawn at once (ten draws take seconds to
# compile).
DRAWS = {
    "jitter": (len(COLUMNS),), "rough": (2, OCTAVES), "block": (4 * BLOCKS,),
    "bars": (2, 3 * BARS), "shade": (), "angle": (2, WAVES), "octave": (2, WAVES), "view": (2,),
}  # fmt: skip
# How far each column wanders from scene to scene (standard deviation).
JITTER = np.array(
    [0.04, 0.06, 0.02, 0.01, 0.03, 0.04, 1.5, 6, 0.03, 0.05, 0.03, 0.02, 0.03, 0.07, 0.07],
    np.float32,
)


def render_scenes(
    key: PRNGKeyArray, labels: Int[Array | np.ndarray, " N"], size: tuple[int, int] = (256, 256)
) -> Float[Array, "N Y X 3"]:
    """One scene a label (index into SCENE_CLASSES), each from its own fold of `key`; in [0, 1].

    Scene n depends on `key`, n and labels[n] alone, so a longer list starts with the same scenes.
    """
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(labels)))
    return _render(keys, jnp.asarray(labels), size)


def open_scenes(
    seed: int, count: int, size: tuple[int, int] = (256, 256), batch: int = 16
) -> ImageSource:
    """`count` scenes, the classes in turn, as a source: named CLASS/NUMBER, rendered when read."""
    labels = np.arange(count, dtype=np.int32) % len(SCENE_CLASSES)
    key = jax.random.key(seed)

    lock = threading.Lock()  # readers that wait for one batch must not each render it

    @functools.lru_cache(maxsize=8)
    def rendered(start: int) -> np.ndarray:
        numbers = jnp.arange(start, start + batch)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
        return np.asarray(_render(keys, numbers % len(SCENE_CLASSES), size))

    def read(index):
        index = int(index)
        with lock:
            return rendered(index - index % batch)[index % batch]

    return ImageSource(
        names=tuple(f"{SCENE_CLASSES[label]}/{n:05d}" for n, label in enumerate(labels)),
        labels=labels,
        class_names=SCENE_CLASSES,
        read=read,
    )


@functools.partial(jax.jit, static_argnames="size")
def _render(keys, labels, size):
    return jax.vmap(lambda key, label: _scene(key, jnp.asarray(LAYERS)[label], size))(keys, labels)


def _scene(
    key: PRNGKeyArray, layers: Float[Array, "L P"], size: tuple[int, int]
) -> Float[Array, "Y X 3"]:
    """One scene from its L layers, jittered, painted from back to front."""
    count = sum(math.prod(shape) for shape in DRAWS.values())
    draws = jax.random.uniform(key, (len(layers), count), minval=1e-6, maxval=1 - 1e-6)
    (rise, shift), (gain, tint) = jax.scipy.special.ndtri(draws[:2, -2:])
    y, x = jnp.meshgrid(
        (jnp.arange(size[0]) + 0.5) / size[0] - 0.05 * rise,
        (jnp.arange(size[1]) + 0.5) / size[1] - 0.5 - 0.1 * shift,
        indexing="ij",
    )

    def paint(canvas, row_and_draws):
        row, draws = row_and_draws
        colour, cover = _layer(row, _named(draws), y, x)
        return canvas + cover[..., None] * (colour - canvas), None

    canvas = jnp.zeros((*size, 3))
    canvas, _ = jax.lax.scan(paint, canvas, (layers, draws))
    light = jnp.exp(0.15 * gain + 0.05 * tint * jnp.array([1.0, 0.0, -1.0]))
    return jnp.clip(canvas * light[None, None], 0, 1)


def _named(draws: Float[Array, " S"]) -> dict[str, Array]:
    """Cuts a layer's random numbers into the arrays of DRAWS."""
    ends = np.cumsum([math.prod(shape) for shape in DRAWS.values()])
    pieces = jnp.split(draws, ends[:-1])
    return {name: piece.reshape(DRAWS[name]) for name, piece in zip(DRAWS, pieces, strict=True)}


def _layer(
    row: Float[Array, " P"], draws: dict[str, Array], y: Float[Array, "Y X"], x: Float[Array, "Y X"]
) -> tuple[Float[Array, "Y X 3"], Float[Array, "Y X"]]:
    """Colour of one layer and how much of each pixel it covers (0 to 1, soft over one pixel)."""
    # What a layer lacks (0) stays lacking: dunes get no blocks, the sky no edge.
    row += (row != 0) * JITTER * jax.scipy.special.ndtri(draws["jitter"])
    p = dict(zip(COLUMNS, row, strict=True))
    across = x[0]
    rough = _fractal(draws["rough"], across) * p["rough"]
    blocks = _steps(draws["block"], across) * p["block"]
    wedge = p["wedge"] * jax.nn.relu(jnp.abs(across) - p["reach"])
    edge = p["level"] + wedge + rough - blocks
    sharp = 1.5 * y.shape[0]
    below = jax.nn.sigmoid(sharp * (y - edge[None]))
    cover = below * _bars(draws["bars"], across, p["bars"], sharp)[None]
    depth = jnp.maximum(y - p["level"] + 0.12, 0.05)  # 1 / distance on a ground plane
    texture = _texture(
        jax.scipy.special.ndtri(draws["angle"]),
        jax.scipy.special.ndtri(draws["octave"]),
        p,
        y,
        x,
        depth,
    )
    shade = 0.25 * (draws["shade"] - 0.5) * y  # a slow gradient, as of light
    luminance = p["luminance"] + p["contrast"] * texture + shade
    return _hsl(p["hue"] + 0.02 * texture, p["saturation"], luminance), cover


def _fractal(phases: Float[Array, "2 O"], x: Float[Array, " X"]) -> Float[Array, " X"]:
    """Fractal noise along x of unit size: octaves of sines with random phase, amplitude 1/f."""
    frequencies = 2.0 ** jnp.arange(OCTAVES)
    phases = 2 * jnp.pi * phases
    slow = jnp.sin(2 * jnp.pi * frequencies[:, None] * x[None] + phases[0, :, None])
    fast = jnp.sin(2 * jnp.pi * 1.37 * frequencies[:, None] * x[None] + phases[1, :, None])
    return jnp.sum((slow + fast) / frequencies[:, None], axis=0) / 2


def _steps(heights: Float[Array, " S"], x: Float[Array, " X"]) -> Float[Array, " X"]:
    """A skyline: 11 columns over the width, of these heights in [0, 1], their widths jittered."""
    bent = x + 0.02 * jnp.sin(9 * x + 6 * heights[0])
    place = jnp.floor((bent + 1.5) * BLOCKS).astype(int)
    return heights[jnp.clip(place, 0, len(heights) - 1)]


def _bars(draws: Float[Array, "2 S"], x, share, sharp) -> Float[Array, " X"]:
    """Vertical bars at jittered places that cover about `share` of the width; all of it from .8."""
    places, widths = draws
    centres = (jnp.arange(len(places)) + 0.2 + 0.6 * places) / BARS - 1.5
    halves = share / BARS * (0.25 + 0.5 * widths)
    bars = jax.nn.sigmoid(sharp * (halves[:, None] - jnp.abs(x[None] - centres[:, None])))
    return jnp.where(share > 0.8, 1.0, jnp.max(bars, axis=0))


def _texture(angles, octaves, p, y, x, depth) -> Float[Array, "Y X"]:
    """Texture of about unit deviation: a sum of oriented waves, mixed with a lattice of cells.

    On a ground plane both coordinates are divided by the depth, so frequency rises to the horizon;
    it is faded out where a wave would be finer than two pixels.
    """
    plane = p["perspective"]
    u = x / depth**plane * 0.35**plane
    v = y * (1 - plane) - plane * 0.6 * jnp.log(depth)
    fine = 1 / (1 + jnp.square(p["frequency"] * 3.0 / (y.shape[0] * depth**plane)))
    spread = p["isotropy"] * jnp.pi / 2 * angles[0] + 0.02 * angles[1]
    frequencies = p["frequency"] * 2 ** (0.45 * octaves[0])

    def add(total, wave):
        frequency, angle, phase = wave
        position = jnp.cos(angle) * v + jnp.sin(angle) * u
        return total + jnp.cos(2 * jnp.pi * (frequency * position + phase)), None

    total, _ = jax.lax.scan(
        add, jnp.zeros_like(x), (frequencies, jnp.deg2rad(p["angle"]) + spread, 3 * octaves[1])
    )
    noise = total * jnp.sqrt(2 / WAVES)
    cells = jnp.sin(jnp.pi * p["frequency"] * u) * jnp.sin(jnp.pi * p["frequency"] * v)
    lattice = 1.2 * jnp.tanh(6 * cells)
    return fine * (noise + p["lattice"] * (lattice - 0.7 * noise))


def _hsl(hue, saturation, luminance) -> Float[Array, "Y X 3"]:
    """Colours of a hue (0 to 1) and saturation around a luminance; the mean of R, G, B keeps it."""
    phases = 2 * jnp.pi * (hue[..., None] - jnp.array([0, 1 / 3, 2 / 3])[None, None])
    return luminance[..., None] * (1 + saturation * jnp.cos(phases))
