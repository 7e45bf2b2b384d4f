"""AlexNet as torchvision has it (Krizhevsky, arXiv 1404.5997: one column), any size from 63 px."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from foveation_jax.networks.layers import (
    Conv,
    FullyConnected,
    Linear,
    average_pool_to,
    require_size,
    scaled,
)
from foveation_jax.networks.pooling import max_pool

LEAST_SIZE = 63
CELLS = 6  # a side of the pooled map that the classifier sees


class AlexNet(FullyConnected):
    """`FullyConnected`, whose dropout comes before both hidden fully connected layers."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "N Y X 3"], train: bool = False
    ) -> tuple[Float[Array, "N L"], dict[str, Array]]:
        """`out` holds conv1 to conv5, fc6 and fc7 after their ReLU, and the flat `pooled`."""
        require_size(images, LEAST_SIZE, "alexnet")
        out = {}
        # channels, kernel side, stride, padding, max-pooling after it
        convolutions = (
            (64, 11, 4, 2, True),
            (192, 5, 1, 2, True),
            (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        )
        x = images
        for number, (channels, kernel, stride, padding, pooled) in enumerate(convolutions, 1):
            width = scaled(channels, self.width)
            x = Conv(width, kernel, stride, padding, name=f"conv{number}")(x)
            x = jax.nn.relu(x)
            out[f"conv{number}"] = x
            x = max_pool(x, 3, 2) if pooled else x
        x = out["pooled"] = average_pool_to(x, CELLS).reshape(len(x), -1)
        for name in ("fc6", "fc7"):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = out[name] = jax.nn.relu(Linear(scaled(4096, self.width), name=name)(x))
        return Linear(self.n_classes, name="fc8")(x), out
