"""Tasks of templates and word lists: facts, grammar, sums and choices.

One of gendered_pronouns, hypernymy, agreement, capitals, sports, arithmetic, multiple_choice and
colored_objects, by --config.task.name. The negative prompt is the same template filled so that the
foil is its answer. Expected: SmolLM2-135M answers most of them rightly (tests/bench/RESULTS.md has
the accuracy on each); a published circuit is known for sports alone, in Pythia-2.8B.

Cost: as for ioi.py.

Command: ./run.sh circuits --config=configs/circuits/templates.py --config.task.name=capitals
"""

from circuits_jax.config import experiment


def get_config():
    """The experiment."""
    return experiment("capitals")
