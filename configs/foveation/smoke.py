"""Does everything work? The whole experiment at a size where little can be learnt from it.

Synthetic scenes of 32 x 32 pixels, a narrow ResNet18, 2 paired runs of each of the four systems.
Expected: what each system sees; claims on pictures decided, those on networks hardly any, all
accuracies above chance, and the page with every figure on it.
Cost: under a minute on two CPU cores, most of it compilation, which the next run finds done.

    ./run.sh foveation --config=configs/foveation/smoke.py --workdir=runs/smoke
"""

from foveation_jax.config import systems_experiment


def get_config():
    config = systems_experiment()
    config.data = "synthetic"
    config.limit_train, config.limit_test = 40, 16
    config.size = (32, 32)
    config.stage1.match_images = 20
    config.runs = 2
    config.network, config.width = "resnet18", 0.125
    config.recipe.update(
        epochs=3,
        batch_size=40,
        learning_rates=(0.05, 0.0125, 0.003125),
        changes=(0.5, 0.75),
    )
    config.keep_epochs = (0, 1, 3)
    # Batches of 40 everywhere, so that few programs have to be compiled.
    config.probe_images, config.probe_every = 4, 2
    config.dynamics_images, config.dynamics_every = 4, 8
    config.metrics = ("mse", "mutual_information", "ssim")
    return config.lock()
