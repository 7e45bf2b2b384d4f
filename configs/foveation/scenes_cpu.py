"""The whole experiment of arXiv 2006.07991 on two CPU cores: a folder of some 20 scene classes.

Images of 64 x 64 pixels, a ResNet18 of 3/16 of the width, 3 paired runs of each of the four
systems. The folder holds train/CLASS/* and test/CLASS/*, some 300 and 50 images each.
Expected: all four systems well above chance (1 in 20); the tables of claims are in
tests/bench/RESULTS.md. Three runs decide large effects only: the page says which, and with what
uncertainty.
Cost: 11 minutes on two CPU cores with nothing beside it.

    ./run.sh foveation --config=configs/foveation/scenes_cpu.py --config.data=FOLDER --workdir=DIR
"""

from foveation_jax.config import systems_experiment


def get_config():
    config = systems_experiment()
    config.size = (64, 64)
    config.runs = 3
    config.network, config.width = "resnet18", 0.1875
    config.recipe.update(
        epochs=2,
        batch_size=32,
        learning_rates=(0.05, 0.0125),
        changes=(0.5,),
    )
    config.keep_epochs = (0, 1, 2)
    config.probe_images, config.probe_every = 8, 2
    config.dynamics_images, config.dynamics_every = 4, 8
    return config.lock()
