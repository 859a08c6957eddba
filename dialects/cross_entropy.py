"""zenith.cross_entropy: the cross-entropy of rows of logits and integer labels.

Operands: logits x [..., V]; labels l [...], integers. Results, float32 [...]: the loss, and with `residuals` what the
gradient (cross_entropy_vjp.py) needs of each row, its maximum m and its sum s = Σ exp(x - m), so that
lse = log Σ exp x = m + log s.

    t_j  = (1 - smoothing) [j = l] + smoothing / V
    loss = Σ_j t_j (lse - x_j) + z_loss lse²

    smoothing  the share of the target that is spread over all V (Szegedy et al. 2016, section 7)
    z_loss     the factor of lse²
    outside    what a label means that is no column: "fill", as jnp.take_along_axis reads it, negative ones count from
               the end and beyond that the loss is NaN; "zero", as jax.nn.one_hot writes it, there is no j = l;
               "drop", as lse - Σ_j one_hot_j x_j has it, there is no such x_j, and lse counts as ever
    infinity   the s of a row that holds +inf: "inf", as jax.nn.logsumexp has it, or "nan", as where x - m is computed
    residuals  there are results for m and s

Whoever masks rows multiplies the loss by a weight. Arithmetic is float32 at least. Terms with the factor 0 are left
out: an infinite logit is no NaN there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from zenith_mlir.dialects.flat_spec import FlatSpec

if TYPE_CHECKING:
    import jax

NAME = "zenith.cross_entropy"
_T = TypeVar("_T")


@dataclass(frozen=True)
class CrossEntropySpec(FlatSpec):
    """What the attributes of a zenith.cross_entropy say."""

    OP: ClassVar[str] = NAME

    smoothing: float = 0.0
    z_loss: float = 0.0
    outside: str = "fill"
    infinity: str = "inf"
    residuals: bool = False

    def __post_init__(self) -> None:
        known = ("fill", "zero", "drop")
        self.check(self.outside in known, f'outside is "{self.outside}", expected "fill", "zero" or "drop"')
        self.check(self.infinity in ("inf", "nan"), f'infinity is "{self.infinity}", expected "inf" or "nan"')

    @property
    def operand_names(self) -> tuple[str, ...]:
        """What the operands are, in order."""
        return ("logits", "labels")

    @property
    def result_names(self) -> tuple[str, ...]:
        """What the results are, in order."""
        return ("loss", *(("maximum", "sum") if self.residuals else ()))

    def named(self, operands: Sequence[_T]) -> dict[str, _T]:
        """The operands by name."""
        return dict(zip(self.operand_names, operands, strict=True))

    def verify(self, shapes: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Check the shapes of operands and results against each other.

        Raises: ValueError naming what does not fit, the shape expected and the shape it has.
        """
        names = self.operand_names + self.result_names
        found = self.shapes_by_name(names, [*shapes, *results])
        logits = found["logits"]
        self.check(len(logits) >= 1, "logits is a scalar, expected rows along its last axis")
        self.check_shapes(found, {name: logits if "logits" in name else logits[:-1] for name in names})


def reference(spec: CrossEntropySpec, logits: jax.Array, labels: jax.Array, dtype: Any = None) -> Any:
    """The formula, plainly, in `dtype` (default: at least float32).

    Returns: the loss; with residuals the loss, the maximum and the sum. They have `dtype`, or else float32.
    """
    import jax.numpy as jnp

    wide = logits.astype(dtype or jnp.promote_types(logits.dtype, jnp.float32))
    results = (loss(spec, wide, labels), *(row_sums(spec, wide) if spec.residuals else ()))
    narrow = tuple(result.astype(dtype or jnp.float32) for result in results)
    return narrow if spec.residuals else narrow[0]


def row_sums(spec: CrossEntropySpec, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maximum of each row and Σ exp(x - maximum)."""
    import jax.numpy as jnp

    maximum = jnp.max(logits, -1)
    finite = jnp.where(jnp.isfinite(maximum), maximum, 0) if spec.infinity == "inf" else maximum
    return maximum, jnp.exp(logits - finite[..., None]).sum(-1)


def log_sum_exp(spec: CrossEntropySpec, logits: jax.Array) -> jax.Array:
    """Of each row."""
    import jax
    import jax.numpy as jnp

    if spec.infinity == "inf":
        return jax.nn.logsumexp(logits, axis=-1)
    maximum = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    return jnp.squeeze(maximum, -1) + jnp.log(jnp.exp(logits - maximum).sum(-1))


def loss(spec: CrossEntropySpec, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Of each row, in the dtype of the logits."""
    import jax.numpy as jnp

    lse = log_sum_exp(spec, logits)
    inside = ((labels >= 0) & (labels < logits.shape[-1]))[..., None]
    column = labels[..., None] if spec.outside == "fill" else jnp.where(inside, labels[..., None], 0)
    picked = lse - jnp.take_along_axis(logits, column, -1, mode="fill")[..., 0]
    if spec.outside != "fill":
        picked = jnp.where(inside[..., 0], picked, 0 if spec.outside == "zero" else lse)
    total = (1 - spec.smoothing) * picked
    if spec.smoothing:
        total = total + spec.smoothing * (lse - logits.mean(-1))
    return total + spec.z_loss * jnp.square(lse) if spec.z_loss else total
