r"""Trains the decoder of the vgg route for any VGG encoder on a folder of photographs.

The published decoder can be had from its authors only; this makes one from an encoder's weights
(the normalised VGG19, or torchvision's VGG11, VGG16 or VGG19) and photographs, with the content
loss of Huang & Belongie (arXiv 1703.06868) and the statistics of local tiles.
Expected: WORKDIR/vgg.safetensors, which --config.weights of transforms.py takes; the losses fall
steadily in WORKDIR/metrics.jsonl.
Cost: work for an accelerator; a step encodes 4 and decodes 2 images for each of its photographs.

    ./run.sh foveation --config=configs/foveation/train_decoder.py --config.images=FOLDER \
        --config.encoder=FILE --workdir=DIR
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    config = config_dict.ConfigDict()
    config.job = "train_decoder"
    config.images = ""  # folder of photographs; "" for the embedded pictures
    config.encoder = ""  # weights of the encoder: .pth, .safetensors or .npz
    config.size = (256, 256)
    config.scale = 0.4  # of the windows in which half of every batch is turned into texture
    config.batch_size = 8
    config.steps = 20_000
    config.learning_rate = 1e-4
    config.statistics_weight = 1.0  # of the local statistics beside the content
    config.checkpoint_every = 500
    config.seed = 0
    return config.lock()
