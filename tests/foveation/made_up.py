"""Made-up results of the shape that a run of stage 2 has, with effects of a known sign."""

import numpy as np

from foveation_jax.claims.results import History, ProbeResults, Strip
from foveation_jax.probes.curves import Confusion, Curve

SYSTEMS = ("reference", "foveation_texture", "uniform_blur", "foveation_blur")
SKILL = dict(zip(SYSTEMS, (0.52, 0.515, 0.43, 0.46), strict=True))  # accuracy on the own transform
HIGH = dict(zip(SYSTEMS, (0.42, 0.6, 0.25, 0.3), strict=True))  # share that high-pass leaves
ROBUST = dict(zip(SYSTEMS, (1.0, 1.0, 1.0, 1.0), strict=True))
CENTRE = dict(zip(SYSTEMS, (0.42, 0.27, 0.43, 0.28), strict=True))  # area of the cross-over
AREAS = np.array([0, 0.0155, 0.0343, 0.0759, 0.168, 0.3719, 0.8078, 1])
HIDDEN = np.arange(17) / 16
LOW_SIGMAS = np.array([0.0, 1, 3, 5, 7, 9, 15, 40])
HIGH_SIGMAS = np.array([np.inf, 3, 1.5, 1, 0.7, 0.55, 0.45, 0.4])
EPOCHS = (0, 1, 5, 30)


def made_up_results(
    n_runs=4, systems=SYSTEMS, n_classes=8, spread=0.008, seed=0, with_pictures=True
) -> ProbeResults:
    """All probes of all systems: claims 1 to 3 hold but for occlusion, which is undecided."""
    rng = np.random.default_rng(seed)
    curves = _curves(rng, n_runs, systems, n_classes, spread, 1.0)
    dynamics = {
        epoch: _curves(rng, n_runs, systems, n_classes, spread, learnt)
        for epoch, learnt in zip(EPOCHS, (0.0, 0.3, 0.7, 1.0), strict=True)
    }
    perceptual = {
        name: {
            "mse": rng.gamma(20, (0.001, 0.0006)["blur" in name], 40),
            "mutual_information": rng.normal((1.1, 1.6)["blur" in name], 0.1, 40),
            "ssim": rng.normal(0.6, 0.01, 40),
        }
        for name in systems
        if name != "reference"
    }
    return ProbeResults(
        systems=tuple(systems),
        class_names=tuple(f"class_{number}" for number in range(n_classes)),
        network="alexnet",
        curves=curves,
        dynamics=dynamics,
        confusion=tuple(_confusion(rng, a, b, n_runs, n_classes) for a in systems for b in systems),
        perceptual=perceptual,
        training=tuple(_history(rng, name, n_runs, n_classes) for name in systems),
        strips=tuple(_strips(rng, systems)) if with_pictures else (),
        filters=_filters(rng, systems) if with_pictures else {},
        experiment={"config": {"marker": 12345}, "versions": {"jax": "0"}},
    )


def _curves(rng, n_runs, systems, n_classes, spread, learnt):
    chance = 1 / n_classes
    start = rng.normal(0, 2 * spread, (n_runs, 1))  # what a run's weights and order share

    def curve(probe, name, levels, share):
        share = np.broadcast_to(share, levels.shape)
        clean = chance + learnt * (SKILL[name] - chance) * share
        noise = rng.normal(0, spread, (n_runs, 1)) + rng.normal(
            0, spread / 2, (n_runs, len(levels))
        )
        return Curve(probe, name, levels, np.clip(clean + start + noise, 0, 1))

    found = []
    for name in systems:
        for other in systems:
            share = 1 if name == other else 0.9 if other == "reference" else 0.7
            found.append(curve(f"generalization/{other}", name, np.zeros(1), share))
        for kind in ("scotoma", "glaucoma", "left_to_right", "top_to_bottom"):
            share = (1 - HIDDEN) ** ROBUST[name]
            found.append(curve(f"occlusion/{kind}", name, HIDDEN, share))
        for kind, areas in (("window", AREAS), ("square", HIDDEN)):
            bend = np.log(0.5) / np.log(CENTRE[name])
            found.append(curve(f"{kind}_conflict/centre", name, areas, areas**bend))
            found.append(curve(f"{kind}_conflict/periphery", name, areas, 1 - areas**bend))
        for colour, keeps in (("colour", 1.0), ("grey", 0.8)):
            low = keeps * 0.9 ** np.arange(8.0) ** 1.5
            high = keeps * HIGH[name] ** (np.arange(8) / 4)
            found.append(curve(f"frequency/low_pass_{colour}", name, LOW_SIGMAS, low))
            found.append(curve(f"frequency/high_pass_{colour}", name, HIGH_SIGMAS, high))
    return tuple(found)


def _confusion(rng, system, transform, n_runs, n_classes):
    chance, right = 1 / n_classes, SKILL[system] * (1 if system == transform else 0.8)
    rates = np.full((n_classes, n_classes), (1 - right) * chance / (1 - chance))
    rates[np.diag_indices(n_classes)] = right
    rates /= rates.sum(1, keepdims=True)
    counts = np.stack([[rng.multinomial(20, row) for row in rates] for _ in range(n_runs)])
    return Confusion(system, transform, counts)


def _history(rng, name, n_runs, n_classes):
    epochs = np.arange(1, 31)
    learnt = 1 - np.exp(-epochs / 7)
    noise = rng.normal(0, 0.01, (4, n_runs, len(epochs)))
    test = 1 / n_classes + (SKILL[name] - 1 / n_classes) * learnt
    rate = np.where(epochs < 8, 0.01, np.where(epochs < 15, 0.005, 0.0025))
    loss = np.log(n_classes) * (1 - learnt * SKILL[name])
    return History(
        name, epochs, rate, loss * 0.7 + noise[0], 1.3 * test + noise[1], loss + noise[2],
        test + noise[3],
    )  # fmt: skip


def _strips(rng, systems):
    for title, captions in (
        ("What each system sees", systems),
        ("scotoma", ("0 %", "25 %", "75 %")),
    ):
        pictures = rng.integers(0, 255, (len(captions), 24, 32, 3), np.uint8)
        yield Strip(title, tuple(captions), pictures)


def _filters(rng, systems):
    return {
        name: {epoch: rng.normal(0, 0.1, (5, 5, 3, 12)) for epoch in (0, 30)} for name in systems
    }
