"""Methods that find circuits, behind one interface: (model, task, key, options) -> Scores.

All scores have one sign: higher = in the circuit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from circuits_jax.circuits.circuit import Scores
from circuits_jax.lm import performance
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods.acdc import Acdc, acdc
from circuits_jax.methods.attribution import INTEGRATED, Attribution, attribution
from circuits_jax.methods.cdt import Cdt, cdt
from circuits_jax.methods.eap import Eap, EapIg, eap, eap_ig
from circuits_jax.methods.exact_patching import ExactPatching, exact_patching
from circuits_jax.methods.hisp import Hisp, hisp
from circuits_jax.methods.mean_difference import MeanDifference, mean_difference
from circuits_jax.methods.random import Random, random
from circuits_jax.methods.relp import Relp, relp
from circuits_jax.methods.sae_codes import PUBLISHED, SaeCodes, sae_codes
from circuits_jax.methods.subnetwork_probing import SubnetworkProbing, subnetwork_probing
from circuits_jax.runs import errors, keys
from circuits_jax.runs.errors import InputError, unknown_name
from circuits_jax.tasks import Task, make_task, task_warning


@dataclasses.dataclass(frozen=True)
class Method:
    """A method and its default options (a frozen dataclass)."""

    function: Callable[[LanguageModel, Task, jax.Array, Any], Scores]
    options: Any

    def run(self, model: LanguageModel, task: Task, key: jax.Array, options: Any) -> Scores:
        """What the function finds, all of it finite.

        Raises:
            InputError: as the function, or a score is NaN or infinite; the sentence says which
                part of the model is so first, where one is.
        """
        scores = self.function(model, task, key, options)
        try:
            scores.check_finite(self.function.__name__)
        except InputError:
            learn = task.learn
            found = model.first_not_finite([*learn.positives, *learn.negatives])
            if found is None:
                raise
            raise InputError(f"{self.function.__name__}: {found}") from None
        return scores


METHODS: Mapping[str, Method] = {
    "sae_codes": Method(sae_codes, SaeCodes()),
    "sae_codes_published": Method(sae_codes, PUBLISHED),
    "exact_patching": Method(exact_patching, ExactPatching()),
    "attribution": Method(attribution, Attribution()),
    "attribution_ig": Method(attribution, INTEGRATED),
    "eap": Method(eap, Eap()),
    "eap_ig": Method(eap_ig, EapIg()),
    "relp": Method(relp, Relp()),
    "acdc": Method(acdc, Acdc()),
    "cdt": Method(cdt, Cdt()),
    "hisp": Method(hisp, Hisp()),
    "subnetwork_probing": Method(subnetwork_probing, SubnetworkProbing()),
    "mean_difference": Method(mean_difference, MeanDifference()),
    "random": Method(random, Random()),
}


def method_options(method: str, **changes: Any) -> Any:
    """The options of a method with some fields changed.

    Raises:
        InputError: no such method, or no such option.
    """
    errors.check_kind("method", method, str, "whose options are given by name, such as l1=0.02")
    if method not in METHODS:
        raise InputError(unknown_name("method", method, METHODS))
    options = METHODS[method].options
    known = [field.name for field in dataclasses.fields(options)]
    for name in changes:
        if name not in known:
            raise InputError(unknown_name(f"option of method {method}", name, known))
    return dataclasses.replace(options, **changes)


def discover(
    model: LanguageModel,
    task: Task | str,
    method: str = "sae_codes",
    *,
    n: int = 5,
    seed: int = 0,
    key: jax.Array | None = None,
    **options: Any,
) -> Scores:
    """Score every head, and every directed pair of heads, for a task.

    Args:
        model: a loaded model.
        task: what `make_task` makes; or its name, for `n` pairs drawn with `seed`.
        method: a name in `METHODS`.
        n: pairs to learn from, where `task` is a name.
        seed: of everything random in the method; the same one gives what the command gives.
        key: of the method, in place of that of the seed.
        **options: of the method, such as `l1` of `sae_codes`.

    Returns:
        Scores: `head_scores` [L, H], `edge_scores` [G, G], `circuit(size=...)`.

    Raises:
        InputError: unknown method, option or task, an argument in the place of another, or a task
            without contrast.

    Warns:
        TaskWarning: the model does the task no better than chance, or its metric is within noise
            (`lm/performance.py`).
    """
    errors.check_kind("model", model, LanguageModel, "as load_model gives it")
    settings = method_options(method, **options)
    if isinstance(task, str):
        task = make_task(task, model.tokenizer, n=n, seed=seed)
    errors.check_kind("task", task, Task, "as make_task gives it, or the name of one")
    key = keys.stream(seed if key is None else key, "method")
    measured = performance.measure(model, task, ("learn",))
    scores = METHODS[method].run(model, task, key, settings)
    task_warning.warn([*performance.doubts(measured), *performance.remarks(measured)])
    return scores
