"""What foveation does to a vision system: a fixed first stage, a learned second one, and probes.

    import foveation_jax as fj
    texture = fj.transform("foveation_texture", images, jax.random.key(0), scale=0.4)
    windows = fj.pooling_windows(0.4).masks()

Facts and formulas are of Deza & Konkle, "Emergent Properties of Foveated Perceptual Systems"
(arXiv 2006.07991). Letters of axes are in `shapes.py`; the terms:

    system             a stage 1 with the network that is trained on what it lets through
    stage 1            fixed: Reference, Foveation-Texture, Uniform-Blur or Foveation-Blur
    stage 2            learned: AlexNet, ResNet18 or VGG11
    eccentricity       distance from the fixation, degrees
    ring, wedge        parts of the visual field by eccentricity, and by polar angle
    pooling window     where a ring and a wedge meet, with soft edges; s is width by eccentricity
    texture            what has the same pooled statistics as the image in every window
    matched            blurred as much as Foveation-Texture is, in SSIM to Reference
    probe              held-out images, changed by levels; a curve is accuracy by level
    generalization     accuracy on what other systems see
    occlusion          parts are hidden: scotoma, glaucoma, left to right, top to bottom
    cue conflict       another class in the centre than in the periphery
    claim, verdict     a statement of the paper, and whether the runs here bear it out
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
