"""circuits_jax: which attention heads of a language model do a task, from about ten prompts.

    import circuits_jax as cj
    model = cj.load_model("smollm2")
    task = cj.make_task("ioi", model.tokenizer, n=5, seed=0)
    scores = cj.discover(model, task)
    circuit = scores.circuit(size=68)
    print(circuit.ranked_heads()[:5], cj.evaluate(model, task, circuit))

Letters of axes are in `shapes.py`; terms are TransformerLens' and the papers':

    resid_pre     the residual stream before a layer, [B T D]
    z             a head's values weighted by its attention pattern, [B T H K]
    result        a head's output z W_O: what it adds to the residual stream (`head_outputs`)
    pattern       how much of every earlier token a head reads
    ablation      what takes the place of a head's output: zero, mean, or resample from a negative
    learn pairs   positive and negative prompts that scores come from; others are held out
    codes         integers that a discrete autoencoder gives head outputs (arXiv 2405.12522)
    scores        of heads [L H] and edges [G G], by one of METHODS; a circuit is their top
    truth         heads, and edges, that are known to do a task
    faithfulness  the share of the model's metric that a circuit keeps, all else ablated
    CPR, CMD      areas under, and beside, the curve of faithfulness by size (arXiv 2504.13151)
    TPR, AUC      of the heads that are known, by scores
"""

from circuits_jax.runs import interrupt  # noqa: F401  first: Ctrl-C while the rest is imported

# isort: split
from circuits_jax.capture.head_outputs import head_outputs
from circuits_jax.circuits.circuit import Circuit, Scores, load_circuit
from circuits_jax.circuits.formats import load_graph_json, save_graph_json
from circuits_jax.circuits.given import read_circuit
from circuits_jax.evaluation.faithfulness import Evaluation, EvaluationOptions, evaluate
from circuits_jax.evaluation.node_views import NodeViews, load_node_views, view_nodes
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
    "NodeViews",
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
    "load_node_views",
    "make_task",
    "read_circuit",
    "save_graph_json",
    "view_nodes",
]
