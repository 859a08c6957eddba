"""The zenith ops by hand: functions with the arguments that jax.nn has, made of JAX primitives.

Each works under jit, grad and jvp to any order, vmap, shard_map, sharded jit, jax.checkpoint and jax.export. It lowers
to its zenith.* composite, so under a pipeline the same tables choose the kernel that would be chosen had the op been
found in a program; without one the plain formula runs.
"""

from zenith_mlir.ops.attention import attention as attention
from zenith_mlir.ops.cross_entropy import cross_entropy as cross_entropy
from zenith_mlir.ops.gelu import gelu as gelu
from zenith_mlir.ops.layer_norm import layer_norm as layer_norm
from zenith_mlir.ops.log_softmax import log_softmax as log_softmax
from zenith_mlir.ops.matmul import matmul as matmul
from zenith_mlir.ops.rms_norm import rms_norm as rms_norm
from zenith_mlir.ops.rotary import rotary as rotary
from zenith_mlir.ops.silu import silu as silu
from zenith_mlir.ops.softmax import softmax as softmax
from zenith_mlir.ops.swiglu import swiglu as swiglu

__all__ = [
    "attention",
    "cross_entropy",
    "gelu",
    "layer_norm",
    "log_softmax",
    "matmul",
    "rms_norm",
    "rotary",
    "silu",
    "softmax",
    "swiglu",
]
