"""The points of a model at which its passes can be read and rewritten, in one table.

Names are TransformerLens' where it has one. Nothing else in the library touches interception.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

from circuits_jax.decoder.decoder import MLP, Attention, Block, Norm

# edit(module, call, *args): the value of the point in place of call(*args)
Edit = Callable[..., Any]


def _method(kind: type, method: str, name: str | None = None) -> Callable[..., bool]:
    def is_here(module: nn.Module, called: str) -> bool:
        return isinstance(module, kind) and called == method and name in (None, module.name)

    return is_here


POINTS: dict[str, Callable[[nn.Module, str], bool]] = {
    "resid_pre": _method(Block, "__call__"),  # (stream, ...) -> the stream after the layer
    "qkv": _method(Attention, "heads_of"),  # ("q" | "k" | "v", x) -> of all heads
    "qkv_cut": _method(Attention, "cut"),  # the same, normed and cut to the range they may have
    "pattern": _method(Attention, "pattern"),  # (q, k, ...) -> attention pattern
    "z": _method(Attention, "attend"),
    "attn_out": _method(Attention, "project"),  # (z) -> z W_O summed over heads, before any norm
    "mlp_in": _method(Norm, "__call__", "mlp_norm"),  # (stream) -> normed
    "activation": _method(MLP, "activate"),  # (pre) -> post
    "gate": _method(MLP, "gate"),  # (activation, up) -> their product
    "shares": _method(MLP, "shares"),  # of a mixture: how much each expert counts
    "expert_neurons": _method(MLP, "neurons"),  # (shares) -> of each neuron
    "mlp_out": _method(Norm, "__call__", "mlp_post_norm"),  # what the MLP adds to the stream
    "inverse_scale": _method(Norm, "inverse_scale"),
}


def observed(**keep: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
    """Tell keep(module, value, *args) what these points give in the block, and change nothing."""

    def edit(told, module, call, *args):
        value = call(*args)
        told(module, value, *args)
        return value

    return intercepted(**{name: functools.partial(edit, told) for name, told in keep.items()})


@contextlib.contextmanager
def intercepted(**edits: Edit) -> Iterator[None]:
    """Edit these points in the block, and no longer.

    Flax takes its interceptor away within an `assert`, which `python -O` leaves out: it would then
    go on to act on every later model.
    """
    points = [(POINTS[name], edit) for name, edit in edits.items()]

    def interceptor(call, args, kwargs, context):
        for is_here, edit in points:
            if is_here(context.module, context.method_name):
                call = functools.partial(edit, context.module, call)
        return call(*args, **kwargs)

    before = None if __debug__ else len(nn.module._global_interceptor_stack)
    try:
        with nn.intercept_methods(interceptor):
            yield
    finally:
        while before is not None and len(nn.module._global_interceptor_stack) > before:
            nn.module._global_interceptor_stack.pop()
