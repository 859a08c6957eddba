"""zenith.cross_entropy_vjp: the gradient of zenith.cross_entropy with respect to the logits.

Operands: logits x [..., V]; labels l [...]; the cotangent g of the loss, float32 [...]; if `lse_cotangent` that of lse,
h, where lse has users of its own; with `residuals` the maximum m and the sum s that the forward returned. Results:
dlogits, and if `loss` the loss, for programs that know g beforehand and so need no forward beside this.

    dx_j = (g (Σ t + 2 z_loss lse) + h) exp(x_j - m) / s - g t_j

It has the attributes of zenith.cross_entropy, and

    lse_cotangent  there is an operand h
    loss           there is a result for the loss; not with residuals
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zenith_mlir.dialects.cross_entropy import CrossEntropySpec, log_sum_exp
from zenith_mlir.dialects.cross_entropy import loss as loss_of

if TYPE_CHECKING:
    import jax

NAME = "zenith.cross_entropy_vjp"


@dataclass(frozen=True)
class CrossEntropyVjpSpec(CrossEntropySpec):
    """What the attributes of a zenith.cross_entropy_vjp say."""

    OP: ClassVar[str] = NAME

    lse_cotangent: bool = False
    loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(not (self.loss and self.residuals), "the loss is a result of the forward where that left residuals")

    @property
    def operand_names(self) -> tuple[str, ...]:
        of_lse = ("lse_cotangent",) if self.lse_cotangent else ()
        return ("logits", "labels", "cotangent", *of_lse, *(("maximum", "sum") if self.residuals else ()))

    @property
    def result_names(self) -> tuple[str, ...]:
        return ("dlogits", *(("loss",) if self.loss else ()))


def reference(spec: CrossEntropyVjpSpec, *operands: jax.Array, dtype: Any = None) -> Any:
    """The gradient by differentiating the formula, in `dtype` (default: at least float32). Residuals are not looked at.

    Returns: dlogits, in `dtype` or else that of the logits; if `spec.loss` also the loss, in `dtype` or else float32.
    """
    import jax
    import jax.numpy as jnp

    named = spec.named(operands)
    logits = named["logits"]
    wide = logits.astype(dtype or jnp.promote_types(logits.dtype, jnp.float32))

    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss_of(spec, x, named["labels"]), log_sum_exp(spec, x)

    (loss, lse), pullback = jax.vjp(both, wide)
    of_lse = named["lse_cotangent"] if spec.lse_cotangent else jnp.zeros_like(lse)
    (dlogits,) = pullback((named["cotangent"].astype(wide.dtype), of_lse.astype(wide.dtype)))
    dlogits = dlogits.astype(dtype or logits.dtype)
    return (dlogits, loss.astype(dtype or jnp.float32)) if spec.loss else dlogits
