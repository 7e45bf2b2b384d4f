r"""ResNet18, as arXiv 2006.07991 trains it: 20 scene classes, 10 paired runs of four systems.

As paper_alexnet.py, with 80 epochs at rates .05, .0125 and .003125 (from epochs 16 and 32).
Expected (arXiv 2006.07991): the claims hold for this architecture as they do for AlexNet.
Cost: four times 10 runs x 80 epochs x 90,000 images, work for an accelerator, see paper_alexnet.py.

    ./run.sh foveation --config=configs/foveation/paper_resnet18.py --config.data=FOLDER \
        --workdir=DIR
"""

from foveation_jax.config import PAPER_CLASSES, systems_experiment


def get_config():
    config = systems_experiment()
    config.classes = PAPER_CLASSES
    config.limit_train, config.limit_test = 4500, 250
    config.network = "resnet18"
    config.recipe.update(epochs=80, learning_rates=(0.05, 0.0125, 0.003125), changes=(0.2, 0.4))
    config.keep_epochs = (0, 1, 4, 20, 60, 80)
    return config.lock()
