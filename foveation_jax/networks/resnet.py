"""ResNet18 as torchvision has it (He et al., arXiv 1512.03385): basic blocks, any size."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from foveation_jax.networks.layers import BatchNorm, Conv, Linear, normal_fan_out, scaled
from foveation_jax.networks.pooling import max_pool

STAGES = (64, 128, 256, 512)  # channels; two blocks each, all but the first halve the size


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: [N, Y, X, C] -> [N, P, Q, features]."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "N Y X C"], train: bool) -> Float[Array, "N P Q D"]:
        """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            shortcut = _conv(self.features, 1, self.stride, 0, "downsample_conv")(x)
            shortcut = BatchNorm(name="downsample_bn")(shortcut, train)
        x = _conv(self.features, 3, self.stride, 1, "conv1")(x)
        x = jax.nn.relu(BatchNorm(name="bn1")(x, train))
        x = _conv(self.features, 3, 1, 1, "conv2")(x)
        return jax.nn.relu(BatchNorm(name="bn2")(x, train) + shortcut)


class ResNet18(nn.Module):
    """Normalised images [N, Y, X, 3] -> logits [N, L] and activations by name.

    Attributes:
        n_classes: L.
        width: factor of all channel counts but the last.
    """

    n_classes: int
    width: float = 1.0

    @nn.compact
    def __call__(
        self, images: Float[Array, "N Y X 3"], train: bool = False
    ) -> tuple[Float[Array, "N L"], dict[str, Array]]:
        """`out` holds conv1 and layer1_0 to layer4_1 after their ReLU, and `pooled`."""
        x = _conv(scaled(64, self.width), 7, 2, 3, "conv1")(images)
        x = jax.nn.relu(BatchNorm(name="bn1")(x, train))
        out = {"conv1": x}
        x = max_pool(x, 3, 2, 1)
        for stage, channels in enumerate(STAGES, 1):
            for block in range(2):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"layer{stage}_{block}"
                x = BasicBlock(scaled(channels, self.width), stride, name=name)(x, train)
                out[name] = x
        x = out["pooled"] = x.mean((1, 2))
        return Linear(self.n_classes, name="fc")(x), out


def _conv(features, side, stride, padding, name):
    return Conv(features, side, stride, padding, False, normal_fan_out, name=name)
