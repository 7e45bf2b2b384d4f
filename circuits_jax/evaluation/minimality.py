r"""Minimality of a circuit: whether each of its heads is needed (Wang et al., arXiv 2211.00593).

With C the circuit and m the task's metric, all heads outside replaced as `evaluation` does it:

    change(g) = (m(C) - m(C \ {g})) / (m(M) - m(nothing))       for every head g of C

The paper removes a head together with a set K of heads that stand in for it, chosen by hand for
each head; here K is empty, so heads that back each other up look as if they were not needed.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from circuits_jax.capture.ablation import Ablation, trial
from circuits_jax.circuits.circuit import Circuit
from circuits_jax.evaluation.arguments import check_arguments
from circuits_jax.evaluation.faithfulness import faithfulness
from circuits_jax.evaluation.masked_passes import metric_under
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.tasks import Task

NEEDED = 0.01  # of the metric's range


@dataclasses.dataclass(frozen=True)
class Minimality:
    """What removing each head from the circuit does.

    Attributes:
        heads: (layer, head), in order.
        changes: drop of faithfulness; negative where the circuit does better without the head.
        share: of the heads whose removal changes faithfulness by more than `NEEDED`, either way.
    """

    heads: Int[np.ndarray, "C 2"]
    changes: Float[np.ndarray, " C"]
    share: float


def minimality(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    ablation: Ablation = "mean",
    masks_at_once: int = 1,
) -> Minimality:
    """Remove every head of a circuit alone, on the held-out prompts; one compiled program.

    Cost: as many forward passes over the held-out pairs as the circuit has heads, and three.

    Raises:
        InputError: an argument in the place of another.
    """
    check_arguments(model=model, task=task, circuit=circuit)
    heads = np.argwhere(circuit.heads)
    everything = np.ones_like(circuit.heads)
    without = np.repeat(circuit.heads[None], len(heads), axis=0)
    without[np.arange(len(heads)), *heads.T] = False
    masks = np.concatenate([np.stack([everything, ~everything, circuit.heads]), without])
    values = metric_under(
        model.config,
        model.params,
        trial(model, task.held_out, ablation, task.metric),
        jnp.asarray(masks, jnp.float32),
        task.metric,
        masks_at_once,
    )
    full, empty, *rest = np.asarray(values).mean(axis=1)
    own, *others = faithfulness(np.array(rest), float(full), float(empty))
    changes = own - np.array(others)
    share = float(np.mean(np.abs(changes) > NEEDED)) if len(heads) else np.nan
    return Minimality(heads, changes, share)
