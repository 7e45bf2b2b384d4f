"""VGG11 as torchvision has it (Simonyan & Zisserman, arXiv 1409.1556), any size from 32 px."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from foveation_jax.networks.layers import (
    Conv,
    FullyConnected,
    Linear,
    average_pool_to,
    normal_fan_out,
    normal_hundredth,
    require_size,
    scaled,
)
from foveation_jax.networks.pooling import max_pool

LEAST_SIZE = 32
CELLS = 7  # a side of the pooled map that the classifier sees
BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(FullyConnected):
    """`FullyConnected`, whose dropout comes after both hidden fully connected layers."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "N Y X 3"], train: bool = False
    ) -> tuple[Float[Array, "N L"], dict[str, Array]]:
        """`out` holds conv1_1 to conv5_2, fc6 and fc7 after their ReLU, and the flat `pooled`."""
        require_size(images, LEAST_SIZE, "vgg11")
        out, x = {}, images
        for block, layers in enumerate(BLOCKS, 1):
            for layer, channels in enumerate(layers, 1):
                name, features = f"conv{block}_{layer}", scaled(channels, self.width)
                conv = Conv(features, 3, padding=1, initial=normal_fan_out, name=name)
                x = out[name] = jax.nn.relu(conv(x))
            x = max_pool(x, 2, 2)
        x = out["pooled"] = average_pool_to(x, CELLS).reshape(len(x), -1)
        for name in ("fc6", "fc7"):
            linear = Linear(scaled(4096, self.width), normal_hundredth, name=name)
            x = out[name] = jax.nn.relu(linear(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.n_classes, normal_hundredth, name="fc8")(x), out
