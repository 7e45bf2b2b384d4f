"""circuits_jax: which attention heads of a language model do a task, from about ten prompts.

import circuits_jax as cj
model = cj.load_model("smollm2")
task = cj.make_task("ioi", model.tokenizer, n=5, seed=0)
scores = cj.discover(model, task)
circuit = scores.circuit(size=68)
print(circuit.ranked_heads()[:5], cj.evaluate(model, task, circuit))
"""

from circuits_jax.runs import interrupt  # noqa: F401  first: Ctrl-C while the rest is imported

# isort: split
from circuits_jax.capture.head_outputs import head_outputs
from circuits_jax.circuits.circuit import Circuit, Scores, load_circuit
from circuits_jax.circuits.formats import load_graph_json, save_graph_json
from circuits_jax.evaluation.faithfulness import Evaluation, EvaluationOptions, evaluate
from circuits_jax.evaluation.stability import bootstrap
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.load import load_model
from circuits_jax.methods import METHODS, discover
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import GroundTruth, PromptPairs, Task, make_task
from circuits_jax.tasks.task_warning import TaskWarning

__all__ = [
    "METHODS",
    "Circuit",
    "Evaluation",
    "EvaluationOptions",
    "GroundTruth",
    "InputError",
    "LanguageModel",
    "PromptPairs",
    "Scores",
    "Task",
    "TaskWarning",
    "bootstrap",
    "discover",
    "evaluate",
    "head_outputs",
    "load_circuit",
    "load_graph_json",
    "load_model",
    "make_task",
    "save_graph_json",
]
