"""Where the weights of a language model lie: a table of rules, name by name.

Heads, neurons of MLPs and the vocabulary are split along `model` of the mesh (`runs/devices.py`);
what they share (norms, the bias of what heads write together) is whole on every device. Activations
follow the weights, so heads are computed where their weights are, and only what they write together
is summed between devices, as in tensor parallelism (Shoeybi et al., arXiv 1909.08053).
"""

import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from circuits_jax.runs.devices import MODEL, mesh, placed

# last names of a parameter -> which of its axes is split, those of one layer's after L
RULES = {
    "embedding": 0,  # [V D]
    "unembedding": 1,  # [D V]
    "attention/q": 2,  # [L D H K]
    "attention/k": 2,  # [L D J K]
    "attention/v": 2,
    "attention/q_bias": 1,  # [L H K]
    "attention/k_bias": 1,
    "attention/v_bias": 1,
    "attention/o": 1,  # [L H K D]
    "mlp/up": 2,  # [L D E]
    "mlp/gate": 2,
    "mlp/up_bias": 1,  # [L E]
    "mlp/gate_bias": 1,
    "mlp/down": 1,  # [L E D]
}


def shardings(params: Any, mesh: Mesh) -> Any:
    """Place of every parameter; whole where the devices do not divide the axis of its rule."""

    def one(path, leaf):
        names = [key.key for key in path]
        axis = RULES.get("/".join(names[-2:]), RULES.get(names[-1]) if len(names) == 1 else None)
        if axis is None or leaf.shape[axis] % mesh.shape[MODEL]:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, MODEL))

    return jax.tree_util.tree_map_with_path(one, params)


def memory() -> int:
    """Bytes that the devices among which a model is split have together; of CPUs, the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] * mesh().shape[MODEL]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def place(params: Any) -> Any:
    """Parameters where the mesh in use has them; as they are where it splits no model."""
    if mesh().shape[MODEL] == 1:
        return params
    return jax.tree.map(placed, params, shardings(params, mesh()))
