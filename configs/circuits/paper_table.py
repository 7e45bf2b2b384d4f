"""The table of the paper: ROC AUC of heads on its three tasks, published and ours, best rivals.

Paper: arXiv 2405.12522, table 1: IOI .868 +- .008, greater-than .855 +- .036, docstring
.869 +- .038, 10 trials, autoencoders of 10 prompts, codes counted over 500.
Models: GPT-2 small for IOI and greater-than (a hub id, or a folder that holds it); attn-only-4l for
docstring, as a folder in a family that can be loaded. A task without a model is left out.
Cost: about an hour on two CPU cores, minutes on an accelerator.

    ./run.sh circuits --config=configs/circuits/paper_table.py --workdir=runs/paper_table
"""

from circuits_jax.config import paper_table


def get_config():
    return paper_table()
