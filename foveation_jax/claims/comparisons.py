"""The measures that the claims compare, and all comparisons that are asked for.

A measure is a pure function of the results: one value a run (or a picture) of a system. Values are
fractions in [0, 1] (accuracies, mean heights of accuracy curves, areas of the image), but for the
perceptual ones.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float

from foveation_jax.claims import statistics
from foveation_jax.claims.results import Counted, ProbeResults, title
from foveation_jax.probes.curves import Curve

REFERENCE, TEXTURE = "reference", "foveation_texture"
UNIFORM_BLUR, FOVEATION_BLUR = "uniform_blur", "foveation_blur"
BLURS = (UNIFORM_BLUR, FOVEATION_BLUR)
FOVEATED = (TEXTURE, FOVEATION_BLUR)
UNIFORM = (REFERENCE, UNIFORM_BLUR)
MARGIN = 0.05  # of accuracy: "about as accurate" is within 5 points of 100


class AbsentError(Exception):
    """What a measure needs and the results lack; the text ends a sentence of `LeftOut`."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a claim compares.

    Attributes:
        phrase: "the ..." of a sentence "A exceeds B in the ...".
        unit: of its values.
        source: probes that it is read from.
        value: (results, system, rival) -> [n]; raises `AbsentError` where a curve is missing.
            None for claim 4, which averages the others.
        share: (results, system) -> [n], the value above chance as a share of the accuracy above
            chance where nothing is removed; None where that has no meaning.
        counted: what the n values are of.
    """

    phrase: str
    unit: str
    source: tuple[str, ...]
    value: Callable[[ProbeResults, str, str], np.ndarray] | None
    share: Callable[[ProbeResults, str], np.ndarray] | None = None
    counted: Counted = "runs"


def accuracy(results: ProbeResults, system: str, _: str = "") -> Float[np.ndarray, " V"]:
    """Test accuracy of a system on its own transform."""
    return _find(results, f"generalization/{system}", system).accuracy[:, 0]


def transfer(results: ProbeResults, system: str, rival: str) -> Float[np.ndarray, " V"]:
    """Mean accuracy on all transforms that neither the system nor its rival was trained on."""
    own = (f"generalization/{system}", f"generalization/{rival}")
    strange = [
        curve.accuracy[:, 0]
        for curve in results.curves
        if curve.system == system
        and curve.probe.startswith("generalization/")
        and curve.probe not in own
    ]
    if not strange:
        raise AbsentError(f"{title(system)} was tested on no transform new to both")
    return np.mean(strange, 0)


def _area_measure(probe: str, phrase: str) -> Measure:
    """Mean height of an accuracy curve, and the share of the unprobed accuracy that it keeps."""

    def value(results, system, _=""):
        curve = _find(results, probe, system)
        return statistics.area_under(statistics.positions(probe, curve.levels), curve.accuracy)

    def share(results, system):
        whole = _find(results, probe, system).accuracy[:, 0] - results.chance  # nothing is removed
        kept = value(results, system) - results.chance
        return np.where(whole > 0, kept / np.where(whole > 0, whole, 1), np.nan)

    return Measure(phrase, "accuracy", (probe,), value, share)


def _crossover_measure(kind: str) -> Measure:
    probes = (f"{kind}_conflict/centre", f"{kind}_conflict/periphery")

    def value(results, system, _=""):
        centre, periphery = (_find(results, probe, system) for probe in probes)
        return statistics.crossover(centre.levels, centre.accuracy, periphery.accuracy)

    phrase = f"area that the centre needs to overtake the periphery ({kind} cue-conflict)"
    return Measure(phrase, "area", probes, value)


def _image_measure(metric: str, phrase: str, unit: str) -> Measure:
    def value(results, system, _=""):
        if metric not in results.perceptual.get(system, {}):
            raise AbsentError(f"{metric} of {title(system)}'s pictures was not measured")
        return np.asarray(results.perceptual[system][metric], np.float64)

    return Measure(phrase, unit, (f"perceptual/{metric}",), value, counted="images")


ACCURACY = Measure("accuracy on its own test images", "accuracy", ("generalization/OWN",), accuracy)
TRANSFER = Measure(
    "mean accuracy on transforms new to both", "accuracy", ("generalization/OTHERS",), transfer
)
HIGH_PASS = {
    f"high_pass_{colour}": _area_measure(
        f"frequency/high_pass_{colour}", f"area under the high-pass curve, {colour}"
    )
    for colour in ("colour", "grey")
}
OCCLUSION = {
    f"occlusion_{kind}": _area_measure(
        f"occlusion/{kind}", f"area under the occlusion curve, {kind.replace('_', ' ')}"
    )
    for kind in ("scotoma", "glaucoma", "left_to_right", "top_to_bottom")
}
CROSSOVER = {f"{kind}_crossover": _crossover_measure(kind) for kind in ("window", "square")}
SQUARED_ERROR = _image_measure("mse", "mean squared error to Reference", "squared")
INFORMATION = _image_measure("mutual_information", "mutual information with Reference", "bits")


@dataclasses.dataclass(frozen=True)
class Question:
    """`above` is claimed to exceed `below` in a measure; or to equal it, within a margin."""

    number: str
    key: str
    measure: Measure
    above: str
    below: str
    margin: float | None = None

    @property
    def name(self) -> str:
        """NUMBER/MEASURE/A>B."""
        sign = ">" if self.margin is None else "~"
        return f"{self.number}/{self.key}/{self.above}{sign}{self.below}"

    @property
    def statement(self) -> str:
        """The claim in words."""
        above, below, phrase = title(self.above), title(self.below), self.measure.phrase
        if self.margin is not None:
            return f"{above} and {below} differ by less than {self.margin:g} in {phrase}"
        if self.measure.unit == "area":
            return f"{below} stays below {above} in {phrase}"
        return f"{above} exceeds {below} in {phrase}"


def questions(systems: Iterable[str], margin: float = MARGIN) -> list[Question]:
    """All comparisons of finished networks and of pictures; other systems join claims 2a, 2b."""
    others = [name for name in dict.fromkeys((REFERENCE, *BLURS, *systems)) if name != TEXTURE]
    asked = [Question("1a", "accuracy", ACCURACY, TEXTURE, REFERENCE, margin)]
    asked += [Question("1b", "accuracy", ACCURACY, TEXTURE, blur) for blur in BLURS]
    asked += [Question("1c", "transfer", TRANSFER, TEXTURE, blur) for blur in BLURS]
    for number, measures in (("2a", HIGH_PASS), ("2b", OCCLUSION)):
        asked += [
            Question(number, key, measure, TEXTURE, other)
            for (key, measure), other in itertools.product(measures.items(), others)
        ]
    asked += [
        Question("3", key, measure, uniform, foveated)
        for foveated, (key, measure), uniform in itertools.product(
            FOVEATED, CROSSOVER.items(), UNIFORM
        )
    ]
    asked += [Question("perceptual", "mse", SQUARED_ERROR, TEXTURE, blur) for blur in BLURS]
    asked += [
        Question("perceptual", "mutual_information", INFORMATION, blur, TEXTURE) for blur in BLURS
    ]
    return asked


def _find(results: ProbeResults, probe: str, system: str) -> Curve:
    for curve in results.curves:
        if (curve.probe, curve.system) == (probe, system):
            return curve
    raise AbsentError(f"{probe} of {title(system)} was not measured")


def at_epoch(
    measure: Measure, results: ProbeResults, system: str, epoch: int
) -> Float[np.ndarray, " V"] | None:
    """A system's values at a checkpoint; None where it was not probed then."""
    assert measure.value is not None, "claim 4 is of all checkpoints"
    then = dataclasses.replace(results, curves=results.dynamics[epoch])
    try:
        return measure.value(then, system, system)
    except AbsentError:
        return None
