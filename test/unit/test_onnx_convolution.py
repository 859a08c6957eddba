"""Convolutions as ONNX: every layout, stride, padding, dilation, group and type."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from unit.onnx_checks import agrees, convert, op_types

pytestmark = pytest.mark.once
RANDOM = np.random.default_rng(0)


def _normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.asarray(RANDOM.normal(size=shape)).astype(dtype)


def _agrees(
    x: np.ndarray, kernel: np.ndarray, strides=None, padding="SAME", *, opset=23, tolerance=1e-5, reference=False, **how
):
    spatial = x.ndim - 2
    how.setdefault("dimension_numbers", {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}.get(spatial))

    def fn(x):
        return lax.conv_general_dilated(x, kernel, strides or (1,) * spatial, padding, **how)

    return agrees(fn, x, opset=opset, tolerance=tolerance, reference=reference)


IMAGE, KERNEL = _normal(2, 8, 7, 3), _normal(3, 3, 3, 4)

WAYS = {
    "valid": {"padding": "VALID"},
    "same": {},
    "strides": {"strides": (2, 3)},
    "asymmetric": {"padding": ((0, 2), (3, 1))},
    "negative": {"padding": ((-1, 2), (0, -2))},
    "wide": {"padding": ((5, 4), (6, 3))},
    "atrous": {"rhs_dilation": (2, 1)},
    "holes": {"lhs_dilation": (2, 3), "padding": ((1, 2), (0, 3))},
    "holes and dilation": {"lhs_dilation": (2, 1), "rhs_dilation": (2, 2), "padding": ((3, 2), (0, 3))},
    "holes, more zeros": {"lhs_dilation": (2, 3), "padding": ((4, 7), (6, 5))},
    "holes, less": {"lhs_dilation": (3, 2), "padding": ((-1, -2), (0, -3))},
    "holes and strides": {"strides": (2, 1), "lhs_dilation": (3, 2), "padding": ((1, 2), (0, 3))},
}


@pytest.mark.parametrize("way", WAYS)
def test_windows(way: str) -> None:
    ops = _agrees(IMAGE, KERNEL, **WAYS[way])
    assert ops.count("Transpose") == 2
    assert ("ConvTranspose" in ops) == (way.startswith("holes") and way != "holes and strides")


@pytest.mark.parametrize("opset", [17, 24])
def test_opsets(opset: int) -> None:
    for way in ("asymmetric", "negative", "holes"):
        _agrees(IMAGE, KERNEL, **WAYS[way], opset=opset)


def test_reference() -> None:
    _agrees(IMAGE, KERNEL, **WAYS["asymmetric"], reference=True)
    _agrees(IMAGE, KERNEL, **WAYS["holes"], reference=True)


@pytest.mark.parametrize(
    ("x", "kernel", "layout"),
    [
        ((2, 3, 8, 7), (4, 3, 3, 2), ("NCHW", "OIHW", "NCHW")),
        ((2, 3, 8, 7), (3, 2, 3, 4), ("NCHW", "HWIO", "NHWC")),
        ((8, 7, 2, 3), (3, 4, 3, 2), ("HWNC", "IOHW", "CNHW")),
        ((2, 9, 3), (3, 3, 4), ("NWC", "WIO", "NWC")),
        ((2, 3, 9), (4, 3, 3), ("NCW", "OIW", "NCW")),
        ((2, 5, 4, 6, 3), (2, 3, 2, 3, 4), ("NHWDC", "HWDIO", "NHWDC")),
        ((5, 3), (3, 4), ("NC", "IO", "NC")),
    ],
)
def test_layouts(x: tuple[int, ...], kernel: tuple[int, ...], layout: tuple[str, str, str]) -> None:
    ops = _agrees(_normal(*x), _normal(*kernel), dimension_numbers=layout)
    if layout[0][:2] == layout[2][:2] == "NC" and len(x) > 2:
        assert ops == ["Conv"]


@pytest.mark.parametrize("holes", [(1, 1), (2, 2)])
def test_groups(holes: tuple[int, int]) -> None:
    x = _normal(4, 6, 5, 4)
    for groups, kernel in ((2, (3, 2, 2, 6)), (4, (3, 2, 1, 8))):
        ops = _agrees(x, _normal(*kernel), feature_group_count=groups, lhs_dilation=holes, padding=((1, 1), (2, 0)))
        assert len(ops) - ops.count("Pad") == 3
    _agrees(x, _normal(3, 2, 4, 6), batch_group_count=2, lhs_dilation=holes, padding=((1, 1), (2, 0)))


def test_kernel_that_is_computed_and_read_backwards() -> None:
    x = _normal(1, 6, 6, 2)

    def gradient(kernel):
        y, pull = jax.vjp(lambda x: lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), x)  # fmt: skip
        return pull(jnp.sin(y))

    def reverse(kernel):
        return lax.conv_general_dilated(x, lax.rev(kernel, (0, 1)), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip

    assert "ConvTranspose" in agrees(gradient, _normal(3, 3, 2, 4), tolerance=1e-5)
    agrees(reverse, _normal(3, 2, 2, 4), tolerance=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (3, 4)])
def test_conv_transpose_of_libraries(strides: tuple[int, int], padding, flip: bool) -> None:
    kernel = _normal(3, 2, *((4, 3) if flip else (3, 4)))

    def fn(x):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=layout, transpose_kernel=flip)

    ops = agrees(fn, _normal(1, 4, 5, 3), tolerance=1e-5)
    assert ("ConvTranspose" in ops) == (strides != (1, 1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types(dtype: str) -> None:
    _agrees(IMAGE.astype(dtype), KERNEL.astype(dtype), tolerance=1e-2)
    _agrees(IMAGE.astype(dtype), KERNEL.astype(dtype), tolerance=1e-3, preferred_element_type="float32")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", ["int32", "float64", "uint8"])
def test_types_that_onnxruntime_cannot_convolve(dtype: str, groups: int) -> None:
    with jax.enable_x64(True):
        x = RANDOM.integers(-9, 9, (2, 6, 5, 4)).astype(dtype)
        kernel = RANDOM.integers(-9, 9, (3, 2, 4 // groups, 6)).astype(dtype)
        how = {"feature_group_count": groups, "tolerance": 0}
        _agrees(x, kernel, (2, 1), ((1, 2), (-1, 3)), rhs_dilation=(1, 2), **how)
        _agrees(x, kernel, (1, 1), ((1, 2), (0, 3)), lhs_dilation=(1, 2), **how)


def test_bytes_accumulated_in_integers() -> None:
    x = RANDOM.integers(-128, 127, (2, 6, 5, 4)).astype("int8")
    kernel = RANDOM.integers(-128, 127, (3, 2, 4, 6)).astype("int8")
    assert "ConvInteger" in _agrees(x, kernel, preferred_element_type="int32", tolerance=0)


def test_a_chain_is_turned_at_its_ends_only() -> None:
    first, second, bias = _normal(3, 3, 3, 4), _normal(1, 1, 4, 5), _normal(4)

    def net(x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.nn.relu(lax.conv_general_dilated(x, first, (2, 2), "SAME", dimension_numbers=layout) + bias)
        return lax.conv_general_dilated(y, second, (1, 1), "SAME", dimension_numbers=layout).sum((1, 2))

    assert agrees(net, IMAGE, tolerance=1e-5).count("Transpose") == 1
    assert op_types(convert(net, IMAGE)).count("Conv") == 2


def test_a_bias_and_an_activation_behind_a_convolution() -> None:
    kernel, bias = _normal(3, 3, 3, 4), _normal(4)

    def conv(x):
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    odd = IMAGE.copy()
    odd[0, 3, 3, 1] = np.nan
    assert agrees(lambda x: jax.nn.relu(conv(x) + bias), odd, tolerance=1e-5) == [
        "Transpose",
        "Conv",
        "Relu",
        "Transpose",
    ]
    assert agrees(lambda x: jax.nn.relu6(bias + conv(x)), odd, tolerance=1e-5) == [
        "Transpose",
        "Conv",
        "Clip",
        "Transpose",
    ]
    assert "Add" in agrees(lambda x: (conv(x) + bias) * conv(x), IMAGE, tolerance=1e-5)
    assert "Add" not in agrees(lambda x: conv(x) + 0.5, IMAGE, tolerance=1e-5)
    assert "Add" in agrees(lambda x: conv(x) + jnp.arange(4.0).reshape(4, 1), IMAGE, tolerance=1e-5)
    assert "Max" in agrees(lambda x: jnp.maximum(conv(x), 0.5), odd, tolerance=1e-5)
    assert "Min" in agrees(lambda x: jnp.minimum(jnp.maximum(conv(x), 0.0), -1.0), odd, tolerance=1e-5)
