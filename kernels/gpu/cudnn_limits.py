"""What cuDNN's flash attention takes, as JAX's own checks and those of cuDNN's frontend have it.

JAX: jax/_src/cudnn/fused_attention_stablehlo.py, check_layout and check_is_flash_attention. cuDNN's frontend:
sdpa_support_surface.h and the backward node of scaled_dot_product_flash_attention.h.
"""

from __future__ import annotations

from collections.abc import Sequence

from zenith_mlir.dialects.attention import AttentionSpec
from zenith_mlir.dialects.implementation import Refusal, Request, TensorSpec
from zenith_mlir.target import Target

_FLOATS = ("float16", "bfloat16")
_OLDEST = 90800  # what the CUDA plugins of JAX 0.10 ask for
_BROKEN = (91000, 91001)  # the frontend refuses both "due to known bugs"


def refuse_target(target: Target) -> Refusal | None:
    """Which cuDNN and which GPU."""
    version, capability = target.cudnn, target.compute_capability
    if not version:
        return Refusal("there is no cuDNN", "install nvidia-cudnn, or describe the target with cudnn=91002")
    if version < _OLDEST or version in _BROKEN:
        why = "is too old" if version < _OLDEST else "has known bugs in its attention"
        return Refusal(f"cuDNN {version} {why}", "use 91002 (9.10.2) or later")
    if capability < 80:
        return Refusal(f"cuDNN's flash attention runs on sm_80 and later, not on {target.arch}")
    if capability == 103 and version < 91100:
        return Refusal(f"cuDNN {version} has no attention for sm_103", "use 91100 (9.11) or later")
    return None


def refuse_types(tensors: Sequence[TensorSpec]) -> Refusal | None:
    """One float type of 16 bits for everything that cuDNN reads and writes in that type."""
    for tensor in tensors:
        if tensor.dtype.name not in _FLOATS:
            return Refusal(
                f"cuDNN's flash attention takes {' and '.join(_FLOATS)}, not {tensor.dtype.name}",
                "cast queries, keys and values to bfloat16 if the model allows it",
            )
    names = sorted({tensor.dtype.name for tensor in tensors})
    return Refusal(f"cuDNN's attention has one type, not {' and '.join(names)}") if len(names) > 1 else None


def refuse_bias_type(bias: TensorSpec) -> Refusal | None:
    """A bias is given in the type of the queries, or else in float32, to which narrower floats widen exactly."""
    if bias.dtype.name in (*_FLOATS, "float32"):
        return None
    return Refusal(f"cuDNN's attention adds a bias of up to 32 bits, not {bias.dtype.name}")


def refuse_features(spec: AttentionSpec, target: Target, *, backward: bool) -> Refusal | None:
    """The size of heads."""
    if len(spec.contracted) != 1:
        return Refusal("queries and keys are contracted over several axes or none", "reshape them into one")
    depth, width = spec.size(spec.contracted[0]), spec.size("e")
    if depth != width:
        return Refusal(f"cuDNN's attention is given values as wide as keys, not {width} beside {depth}")
    largest = largest_head(target, backward=backward)
    if depth % 8 or depth > largest:
        passes = "the backward pass of cuDNN's attention" if backward else "cuDNN's attention"
        return Refusal(f"{passes} takes heads of a multiple of 8 up to {largest} on {target.arch}, not {depth}")
    return None


def largest_head(target: Target, *, backward: bool) -> int:
    """The largest head size: 256 on Hopper, and forward on Blackwell from cuDNN 9.9 on."""
    generation = target.compute_capability // 10
    wide = generation == 9 or (generation == 10 and not backward and target.cudnn >= 90900)
    return 256 if wide else 128


def refuse_backward_shape(rows: int, columns: int, *, biased: bool) -> Refusal | None:
    """The lengths of sequences for which the backward pass is missing or wrong."""
    if rows == 1:  # NVIDIA/cudnn-frontend#1072: NaN in the gradients of keys and values
        return Refusal("the backward pass of cuDNN's attention is not right for a single query row")
    if biased and (rows % 2 or columns % 2):
        return Refusal(f"cuDNN's backward pass with a bias or mask needs even sequences, not {rows} x {columns}")
    if biased and columns % 128 == 64:  # pytorch/pytorch#196678: NaN in the gradient of queries
        return Refusal(
            f"cuDNN's backward pass with a bias or mask is not right for {columns} columns, an odd multiple of 64",
            "pad keys to a multiple of 128",
        )
    return None


LIMITS = (
    f"cuDNN {_OLDEST} or later, sm_80 or later; {' or '.join(_FLOATS)} throughout, a bias also float32; one contracted "
    "axis; values as wide as keys; heads of a multiple of 8 up to 128 (256 on Hopper); steps that are a scale, a mask "
    "and a bias"
)
BACKWARD_LIMITS = f"{LIMITS}; with a bias or mask even sequences"

# Shorter sequences are within noise of XLA's own code.
_MIN_SEQ = 32
# With fewer rows most of a tile of queries is empty, and XLA's own code reads the keys as fast.
_MIN_ROWS = 4


def refuse_worth(spec: AttentionSpec, request: Request) -> Refusal | None:
    """What cuDNN could compute and would not pay."""
    if spec.escapes:
        return Refusal(
            "the logits or probabilities are used elsewhere too, so they are computed anyway",
            "do not return the attention weights",
        )
    rows, columns = spec.size("t"), spec.size("s")
    least = _MIN_SEQ if request.min_seq is None else request.min_seq
    if max(rows, columns) < least:
        return Refusal(f"sequence {rows} x {columns} is below min-seq={least}", "lower min-seq to fuse it")
    if rows < _MIN_ROWS and least > 0:
        return Refusal(f"{rows} x {columns} has too few query rows for cuDNN to pay", "set min-seq=0 to fuse it")
    return None
