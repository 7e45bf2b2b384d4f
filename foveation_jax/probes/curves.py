"""What probes produce and the analysis takes: accuracy against level, and confusion matrices.

Names of probes, with what their levels are (arXiv 2006.07991):

    occlusion/scotoma, occlusion/glaucoma,          fraction of the area that is hidden, 0 to 1
    occlusion/left_to_right, occlusion/top_to_bottom
    window_conflict/centre, window_conflict/periphery,   fraction of the area that the centre takes,
    square_conflict/centre, square_conflict/periphery    0 to 1; accuracy for the class shown there
    frequency/low_pass_colour, frequency/low_pass_grey   sigma in px of a width of 256, 0 first
    frequency/high_pass_colour, frequency/high_pass_grey sigma in px of the image, inf first
    generalization/TRANSFORM                             one level, 0: tested on that transform
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Curve:
    """Accuracy of every run of a system along the levels of a probe.

    Attributes:
        probe: name of the probe, as above.
        system: stage-1 system that the runs were trained on.
        levels: [P] the x-axis, in the unit of the probe; in the order of the published levels.
        accuracy: [V, P] fraction of the images that each run names right, 0 to 1.
    """

    probe: str
    system: str
    levels: Float[np.ndarray, " P"]
    accuracy: Float[np.ndarray, "V P"]


@dataclass(frozen=True)
class Confusion:
    """How every run of a system names the images of every class, as a transform shows them.

    Attributes:
        system: stage-1 system that the runs were trained on.
        transform: stage-1 system that the test images went through.
        counts: [V, L, L] images of class (second axis) that were named (last axis).
    """

    system: str
    transform: str
    counts: Int[np.ndarray, "V L L"]
