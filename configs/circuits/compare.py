"""All methods on one task and one model: one table, one figure (quality against cost), one page.

Against exact patching on held-out pairs, and against circuits that are known: published ones, or of
a model made with one (`--config.model=tracr:reverse --config.task.name=compiled`). CPR and CMD:
arXiv 2504.13151. `--config.methods="('sae_codes', 'eap')"` names methods, and "()" takes
every one; acdc, cdt and subnetwork_probing, which take many passes, are left out unless asked for.
Names joined with +, such as sae_codes+relp, are one method more, by the sum of ranks
(`--config.ensemble.combine`); it costs what its members do. Two of them are there by default.
Expected: every method above chance; attribution, relp and sae_codes nearest to exact patching.
Cost: on SmolLM2 about ten minutes on two CPU cores, most of it exact patching and judging circuits;
a compiled model takes one minute.

    ./run.sh circuits --config=configs/circuits/compare.py --workdir=runs/compare
"""

from circuits_jax.config import comparison


def get_config():
    return comparison("ioi")
