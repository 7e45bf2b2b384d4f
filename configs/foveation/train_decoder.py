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

from foveation_jax.config import decoder_training


def get_config():
    return decoder_training().lock()
