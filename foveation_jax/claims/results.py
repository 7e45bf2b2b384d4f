"""Everything that a run of stage 2 has measured and concluded, in memory."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from foveation_jax.probes.curves import Confusion, Curve
from foveation_jax.transforms.matched import Match
from foveation_jax.windows.pooling_windows import PoolingWindows

Verdict = Literal["holds", "fails", "undecided"]
Counted = Literal["runs", "images"]


def title(system: str) -> str:
    """A system's name in text: foveation_texture -> Foveation-Texture."""
    return "-".join(word.capitalize() for word in system.split("_"))


@dataclasses.dataclass(frozen=True)
class History:
    """Training of all runs of a system, one column a finished epoch.

    Attributes:
        system: stage-1 system that the runs were trained on.
        epochs: [P] epochs done, from 1 (or 0, where epoch 0 was tested).
        learning_rate: [P].
        train_loss: [V, P] mean cross-entropy in nats; NaN where not measured, as in the others.
        train_accuracy: [V, P] 0 to 1.
        test_loss: [V, P].
        test_accuracy: [V, P].
    """

    system: str
    epochs: Int[np.ndarray, " P"]
    learning_rate: Float[np.ndarray, " P"]
    train_loss: Float[np.ndarray, "V P"]
    train_accuracy: Float[np.ndarray, "V P"]
    test_loss: Float[np.ndarray, "V P"]
    test_accuracy: Float[np.ndarray, "V P"]


@dataclasses.dataclass(frozen=True)
class Strip:
    """Sample stimuli for the page: pictures side by side, each with its caption.

    `windows` are of these images, where they have a fixation of their own; None for those of all.
    """

    title: str
    captions: tuple[str, ...]
    images: UInt8[np.ndarray, "N Y X 3"]
    windows: PoolingWindows | None = None


@dataclasses.dataclass(frozen=True)
class ProbeResults:
    """All that a run has measured; what is empty is left out of the page, and no claim uses it.

    Attributes:
        systems: in the order in which they are shown.
        class_names: of the L classes.
        network: name of the CNN.
        curves: every probe of the finished networks.
        dynamics: epoch -> the probes of the networks as they were then.
        confusion: of any system on any transform.
        perceptual: system -> metric -> [N], its pictures against Reference's.
        matches: blur -> "train" or "test" -> its sigmas and the gap to the texture achieved there.
        training: a history a system.
        strips: sample stimuli.
        windows: pooling windows of the images, with the fixation and the pixels of a degree.
        filters: system -> epoch -> [kh, kw, 3, filters], first layer of run 0.
        skipped: split -> image -> why, of images that were left out as they could not be read.
        experiment: the workdir's experiment.json: config, versions, devices, revision.
    """

    systems: tuple[str, ...]
    class_names: tuple[str, ...]
    network: str
    curves: tuple[Curve, ...]
    dynamics: Mapping[int, tuple[Curve, ...]] = dataclasses.field(default_factory=dict)
    confusion: tuple[Confusion, ...] = ()
    perceptual: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    matches: Mapping[str, Mapping[str, Match]] = dataclasses.field(default_factory=dict)
    training: tuple[History, ...] = ()
    strips: tuple[Strip, ...] = ()
    windows: PoolingWindows | None = None
    filters: Mapping[str, Mapping[int, np.ndarray]] = dataclasses.field(default_factory=dict)
    skipped: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    experiment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among equally frequent classes."""
        return 1 / len(self.class_names)

    @property
    def n_runs(self) -> int:
        """Most runs that any system has."""
        return max((len(curve.accuracy) for curve in self.curves), default=0)


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim, made operational, with its verdict and what the verdict rests on.

    Attributes:
        name: NUMBER/MEASURE/A>B, or A~B for an equivalence; unique.
        number: of the claim in the paper's list, as "2a".
        statement: what is claimed, with the comparison, in words.
        above: system that is claimed to be above (or equal to) the other in the measure.
        below: the other.
        measure: what is compared, in words.
        verdict: holds, fails or undecided, by `claims.RULE`.
        effect: mean paired difference, positive where it is as claimed (A - B of an equivalence);
            NaN where there is none.
        unit: of the effect and of its interval.
        interval: (low, high) of the effect, NaN where the pairs are too few.
        confidence: of the interval, 0.95, or 0.90 for the two one-sided tests of an equivalence.
        p: of the paired t-test (two-sided; the larger of the two one-sided for an equivalence).
        p_holm: p, corrected for the number of claims in the table.
        n: number of pairs.
        counted: what a pair is, "runs" or "images".
        margin: an equivalence's largest difference that counts as none; None for the others.
        reason: why a verdict is undecided or rests on fewer pairs than there are; "" otherwise.
        source: the probes (or metrics) that the numbers come from.
        evidence: name -> number, list of numbers or mapping of numbers.
    """

    name: str
    number: str
    statement: str
    above: str
    below: str
    measure: str
    verdict: Verdict
    effect: float | int
    unit: str
    interval: tuple[float | int, float | int]
    confidence: float
    p: float | int
    p_holm: float | int
    n: int
    counted: Counted
    margin: float | None
    reason: str
    source: tuple[str, ...]
    evidence: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A claim that the results at hand cannot speak to, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ClaimTable:
    """All claims, in the paper's order, and those left out."""

    claims: tuple[Claim, ...]
    left_out: tuple[LeftOut, ...]
