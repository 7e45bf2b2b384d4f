"""Compiled: a RASP program as a transformer, in which the circuit is known exactly.

Paper: Lindner et al., arXiv 2301.05062 (tracr). `--config.model=tracr:PROGRAM[:DECOYS]`; programs:
reverse, sort, sort_unique, sort_freq, frac_prevs, pair_balance, dyck, shuffle_dyck, length, hist,
double_hist, count, count_less_freq, shift, detect_pattern. DECOYS random heads in every layer write
where nothing that answers reads. Needs the package tracr-pypi.
Cost: under half a minute on two CPU cores.

    ./run.sh circuits --config=configs/circuits/compiled.py --workdir=runs/compiled
"""

from circuits_jax.config import experiment


def get_config():
    config = experiment("compiled")
    config.model = "tracr:reverse"
    return config
