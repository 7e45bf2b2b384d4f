r"""AlexNet, as arXiv 2006.07991 trains it: 20 scene classes, 10 paired runs of four systems.

The recipe: 256 x 256 pixels, batch 128, SGD with Nesterov momentum .9 and weight decay 5e-4, 120
epochs at rates .01, .005 and .0025 (from epochs 30 and 60). `--config.recipe.restart_momentum`
forgets the momentum every epoch, as the published loop does.
Data: MiniPlaces from a folder of train/CLASS, val/CLASS and test/CLASS (4500, 250 and 250 images of
each of 20 classes), or `--config.data=tfds:places365_small`, of which the 20 classes are taken.
Expected (arXiv 2006.07991): Foveation-Texture about as accurate as Reference and above both blurs;
more sensitive to high spatial frequency; both foveated systems lean on the image's centre.
Cost: four times 10 runs x 120 epochs x 90,000 images, work for an accelerator; `./run.sh bench
foveation` has the images a second of your machine. Keep the working folder on a fast disk: what the
systems let through takes 4 x 19 GB.

    ./run.sh foveation --config=configs/foveation/paper_alexnet.py --config.data=FOLDER \
        --workdir=DIR
"""

from foveation_jax.config import PAPER_CLASSES, systems_experiment


def get_config():
    config = systems_experiment()
    config.classes = PAPER_CLASSES
    config.limit_train, config.limit_test = 4500, 250
    config.keep_epochs = (0, 1, 5, 30, 70, 120)
    return config.lock()
