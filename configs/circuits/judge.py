"""Somebody's circuit, judged as our own: a list of heads, a circuit.json, a graph of EAP-IG or MIB.

The file names heads as 9.9, L9H9, a9.h9 or [9, 9] (text, CSV or JSON), or marks nodes or edges of a
graph as in_graph. Its heads are kept, with all MLPs, and all else is ablated on held-out prompts;
the page shows what each head does. Heads that the file does not rank have no curve by size.
Expected: the page and the numbers that a run's own circuit has.
Cost: under a minute on two CPU cores.

    ./run.sh circuits --config=configs/circuits/judge.py --config.circuit.path=heads.txt \
        --config.task.name=ioi --workdir=runs/judged
"""

from circuits_jax.config import judgement


def get_config():
    return judgement("ioi")
