"""Convolutional networks as their papers give them, small in code and full in size: their losses, and shapes to trace.

VGG (Simonyan & Zisserman 2015), ResNet-50 (He et al. 2016), MobileNet (Howard et al. 2017), U-Net (Ronneberger et al.
2015, with padding, so that sizes agree).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Channels of the convolutions, "M" for a maximum over 2 x 2.
_VGG = {
    "VGG16": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    "VGG19": [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}
# Channels and stride of each depthwise separable convolution.
_MOBILENET = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def _halve(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides=(2, 2))


class Vgg(nn.Module):
    name_of: str
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in _VGG[self.name_of]:
            x = _halve(x) if layer == "M" else nn.relu(nn.Conv(layer, (3, 3))(x))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(4096)(x))
        return nn.Dense(self.classes)(x)


class _Norm(nn.Module):
    """Batch normalization that only trains: no running averages."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        shift = self.param("shift", nn.initializers.zeros, x.shape[-1:])
        mean = x.mean((0, 1, 2))
        variance = jnp.square(x).mean((0, 1, 2)) - jnp.square(mean)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift


class MobileNet(nn.Module):
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(_Norm()(nn.Conv(32, (3, 3), strides=2, use_bias=False)(x)))
        for channels, stride in _MOBILENET:
            width = x.shape[-1]
            depthwise = nn.Conv(width, (3, 3), strides=stride, feature_group_count=width, use_bias=False)
            x = nn.relu(_Norm()(depthwise(x)))
            x = nn.relu(_Norm()(nn.Conv(channels, (1, 1), use_bias=False)(x)))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class ResNet50(nn.Module):
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def convolution(x: jax.Array, channels: int, size: int, stride: int = 1) -> jax.Array:
            return _Norm()(nn.Conv(channels, (size, size), strides=stride, use_bias=False)(x))

        x = nn.relu(convolution(x, 64, 7, 2))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                width, stride = 64 * 2**stage, 2 if block == 0 and stage > 0 else 1
                y = nn.relu(convolution(x, width, 1))
                y = nn.relu(convolution(y, width, 3, stride))
                y = convolution(y, 4 * width, 1)
                x = nn.relu(y + (convolution(x, 4 * width, 1, stride) if block == 0 else x))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class UNet(nn.Module):
    depth: int = 4
    width: int = 64
    classes: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def pair(x: jax.Array, width: int) -> jax.Array:
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3))(x))
            return x

        skips = []
        for level in range(self.depth):
            skips.append(pair(x, self.width * 2**level))
            x = _halve(skips[-1])
        x = pair(x, self.width * 2**self.depth)
        for level in reversed(range(self.depth)):
            x = nn.ConvTranspose(self.width * 2**level, (2, 2), strides=(2, 2))(x)
            x = pair(jnp.concatenate([skips[level], x], -1), self.width * 2**level)
        return nn.Conv(self.classes, (1, 1))(x)


# Each model and the shape of its input.
NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "VGG16": (Vgg("VGG16"), (32, 224, 224, 3)),
    "VGG19": (Vgg("VGG19"), (32, 224, 224, 3)),
    "U-Net": (UNet(), (4, 256, 256, 1)),
    "MobileNet": (MobileNet(), (32, 224, 224, 3)),
    "ResNet-50": (ResNet50(), (32, 224, 224, 3)),
}


def loss_of(name: str) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    """The cross-entropy of a network, and the shapes of its arguments: parameters, images and labels."""
    network, shape = NETWORKS[name]
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    parameters = jax.eval_shape(network.init, jax.random.key(0), images)
    logits = jax.eval_shape(network.apply, parameters, images)

    def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jax.nn.log_softmax(network.apply(parameters, images))
        return -jnp.take_along_axis(logits, labels[..., None], -1).mean()

    return loss, (parameters, images, jax.ShapeDtypeStruct(logits.shape[:-1], jnp.int32))
