"""How well a model does the tasks of templates: accuracy and mean logit difference.

./run.sh bench templates [--model smollm2] [--pairs 40]
"""

import argparse

from circuits_jax.lm.load import load_model
from circuits_jax.lm.performance import measure
from circuits_jax.tasks import make_task
from circuits_jax.tasks.templates import SPECS


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--rival", help=argparse.SUPPRESS)  # run.sh gives it to every bench
    asked = parser.parse_args()
    model = load_model(asked.model)
    print("| task | accuracy | logit difference | of the negative prompt |")
    for name in SPECS:
        n_held_out = min(asked.pairs, 20 if name == "arithmetic" else asked.pairs)
        task = make_task(name, model.tokenizer, n=1, n_held_out=n_held_out)
        one = measure(model, task, ("held_out",))["held_out"]
        print(
            f"| {name} | {one.accuracy:.0%} | {one.metric:.2f} | {one.negative_metric:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
