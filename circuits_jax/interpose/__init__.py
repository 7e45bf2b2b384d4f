"""Reading and rewriting activations, with no change to the model.

`points.py` is the one table of what can be read and rewritten; `heads.py` reads and replaces heads
within a pass; `layers.py` runs one layer at a time; `edges.py` ablates edges between heads, and
`graph.py` those of all parts; `rules.py` changes what a gradient sees; `records.py` keeps all that
a pass computes.
"""

from circuits_jax.interpose.edges import replace_edges
from circuits_jax.interpose.graph import replace_graph, writes
from circuits_jax.interpose.heads import Heads, capture, last_logits, replace
from circuits_jax.interpose.layers import (
    Added,
    Written,
    attention_out,
    final_logits,
    residual_streams,
    resume,
    run_layer,
    z_from,
)
from circuits_jax.interpose.records import Record, record, record_final
from circuits_jax.interpose.rules import Rules, linearised

__all__ = [
    "Added",
    "Heads",
    "Record",
    "Rules",
    "Written",
    "attention_out",
    "capture",
    "final_logits",
    "last_logits",
    "linearised",
    "record",
    "record_final",
    "replace",
    "replace_edges",
    "replace_graph",
    "residual_streams",
    "resume",
    "run_layer",
    "writes",
    "z_from",
]
