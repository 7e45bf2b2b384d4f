"""Your own task: a file of prompts in pairs, as JSON lines, a JSON array or CSV.

Each line is {"positive": ..., "negative": ..., "answer": ..., "foil": ...}: a prompt after which
the model can tell the answer, a matched one after which it cannot, and one-token strings, such as
" Mary", whose logits are compared. The files of auto-circuit, EAP-IG and MIB are read as they are
(`circuits_jax/tasks/records.py`). `--config.task.n` of the pairs learn, the others are held out;
`--config.task.n_held_out=10` holds out 10 of them, which makes judging the circuit faster. Pairs
that do not fit the model's tokenizer are left out and counted;
`--config.task.answer_tokens=first` takes the first token of longer answers. Cost: as the number
and length of the prompts; 10 + 10 short ones take under a minute.

    ./run.sh circuits --config=configs/circuits/custom.py --config.task.path=FILE.jsonl
"""

from circuits_jax.config import experiment


def get_config():
    return experiment(
        "custom", path="", metric="logit_diff", answer_tokens="one", ids="", counterfactual=""
    )
