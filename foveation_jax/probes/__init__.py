"""Probes of what a trained system sees (arXiv 2006.07991): stimuli, and the curves they give.

Stimuli are pure functions of a batch [N, Y, X, 3], colours in [0, 1] or uint8 levels, and a level,
which may be traced: one compiled program serves all levels. `probes.evaluate` shows them to trained
networks, `probes.generalization` shows one system's networks what the others let through.
"""

from foveation_jax.probes.cue_conflict import decoy_indices, square_conflict, window_conflict
from foveation_jax.probes.curves import Confusion, Curve
from foveation_jax.probes.frequency import grey, high_pass, low_pass
from foveation_jax.probes.occlusion import occlude

__all__ = [
    "Confusion",
    "Curve",
    "decoy_indices",
    "grey",
    "high_pass",
    "low_pass",
    "occlude",
    "square_conflict",
    "window_conflict",
]
