"""Your own task: a JSONL file of prompts in pairs.

Each line is {"positive": ..., "negative": ..., "answer": ..., "foil": ...}: a prompt after which
the model can tell the answer, a matched one after which it cannot, and one-token strings, such as
" Mary", whose logits are compared. `--config.task.n` of the lines learn, the others are held out;
`--config.task.n_held_out=10` holds out 10 of them, which makes judging the circuit faster.
Cost: as the number and length of the prompts; 10 + 10 short ones take under a minute.

    ./run.sh circuits --config=configs/circuits/custom.py --config.task.path=FILE.jsonl
"""

from circuits_jax.config import experiment


def get_config():
    return experiment("custom", path="")
