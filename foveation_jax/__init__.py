"""What foveation does to a vision system: a fixed first stage, a learned second one, and probes.

    import foveation_jax as fj
    texture = fj.transform("foveation_texture", images, jax.random.key(0), scale=0.4)
    windows = fj.pooling_windows(0.4).masks()

Facts and formulas are of Deza & Konkle, "Emergent Properties of Foveated Perceptual Systems"
(arXiv 2006.07991).
"""

from foveation_jax.runs import interrupt  # noqa: F401  first: Ctrl-C while the rest is imported

# isort: split
from foveation_jax import metrics, probes
from foveation_jax.runs.errors import InputError
from foveation_jax.transforms import register, transform
from foveation_jax.transforms.matched import Match
from foveation_jax.transforms.matching import check_match, match
from foveation_jax.transforms.pyramid import Pyramid, decompose, reconstruct
from foveation_jax.transforms.texture_statistics import TextureStatistics, texture_statistics
from foveation_jax.windows.pooling_windows import PoolingWindows, pooling_windows

__all__ = [
    "InputError",
    "Match",
    "PoolingWindows",
    "Pyramid",
    "TextureStatistics",
    "check_match",
    "decompose",
    "match",
    "metrics",
    "pooling_windows",
    "probes",
    "reconstruct",
    "register",
    "texture_statistics",
    "transform",
]
