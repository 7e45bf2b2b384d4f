"""Reading and rewriting what the parts of a model say, with no change to the model.

`heads.py` reads and replaces heads within a pass; `layers.py` runs one layer at a time; `edges.py`
replaces what one head hears of another; `rules.py` changes what a gradient sees; `records.py` keeps
all that a pass computes. Nothing else in the library touches interception.
"""

from circuits_jax.interpose.edges import replace_edges
from circuits_jax.interpose.heads import Heads, capture, last_logits, replace
from circuits_jax.interpose.layers import (
    Added,
    Written,
    final_logits,
    heads_reading,
    heads_writing,
    residual_streams,
    resume,
    run_layer,
)
from circuits_jax.interpose.records import Record, record, record_final
from circuits_jax.interpose.rules import Rules, linearised

__all__ = [
    "Added",
    "Heads",
    "Record",
    "Rules",
    "Written",
    "capture",
    "final_logits",
    "heads_reading",
    "heads_writing",
    "last_logits",
    "linearised",
    "record",
    "record_final",
    "replace",
    "replace_edges",
    "residual_streams",
    "resume",
    "run_layer",
]
