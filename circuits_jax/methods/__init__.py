"""Methods that find circuits, behind one interface: (model, task, key, options) -> Scores.

All scores have one sign: higher = in the circuit. So they can be combined: the method a+b, such as
sae_codes+attribution, is of the methods a and b together (`ensemble.py`).
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
from circuits_jax.methods.ensemble import Ensemble, combined
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


def ensemble(model: LanguageModel, task: Task, key: jax.Array, options: Ensemble) -> Scores:
    """Scores of several methods together; each has the key that it has alone."""
    found = [METHODS[name].run(model, task, key, own) for name, own in options.members]
    return combined(found, options.combine)


def members(method: str) -> tuple[str, ...]:
    """The names of the methods that a name joins with +; of one method, its own.

    Raises:
        InputError: no such method, or one twice.
    """
    errors.check_kind("method", method, str, "whose options are given by name, such as l1=0.02")
    names = tuple(method.split("+"))
    for name in names:
        if name not in METHODS:
            raise InputError(unknown_name("method", name, METHODS))
        if names.count(name) > 1:
            raise InputError(f"the method {method!r} has {name} twice; each counts once")
    return names


def method_of(name: str) -> Method:
    """A method by its name, or several by theirs, joined with +.

    Raises:
        InputError: no such method, or one twice.
    """
    names = members(name)
    if len(names) == 1:
        return METHODS[name]
    return Method(ensemble, Ensemble(tuple((one, METHODS[one].options) for one in names)))


def method_options(method: str, **changes: Any) -> Any:
    """The options of a method with some fields changed.

    Those of several methods joined with + are `combine`, and by the name of each a mapping with
    what is changed of its own.

    Raises:
        InputError: no such method, or no such option.
    """
    options = method_of(method).options
    if isinstance(options, Ensemble):
        names, own = members(method), []
        for one in names:
            given = changes.pop(one, {})
            errors.check_kind(one, given, Mapping, "of its options, such as dict(steps=5)")
            own.append((one, method_options(one, **given)))
        known = ["combine", *names]
        options = dataclasses.replace(options, members=tuple(own))
    else:
        known = [field.name for field in dataclasses.fields(options)]
    for name in changes:
        if name not in known:
            raise InputError(unknown_name(f"option of method {method}", name, known))
    return dataclasses.replace(options, **changes)


def configured(method: str, config: Any) -> Any:
    """The options of a method that a config gives, in sections by the names of methods.

    Raises:
        InputError: no such method, or an option that is not allowed.
    """
    names = members(method)
    if len(names) == 1:
        return method_options(method, **config[method])
    return method_options(method, **config["ensemble"], **{one: {**config[one]} for one in names})


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
        method: a name in `METHODS`, or several joined with +.
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
    scores = method_of(method).run(model, task, key, settings)
    task_warning.warn([*performance.doubts(measured), *performance.remarks(measured)])
    return scores
