"""`cross_entropy`, the op zenith.cross_entropy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from zenith_mlir.dialects import cross_entropy as dialect
from zenith_mlir.dialects import cross_entropy_vjp as dialect_vjp
from zenith_mlir.dialects.cross_entropy import CrossEntropySpec
from zenith_mlir.dialects.cross_entropy_vjp import CrossEntropyVjpSpec
from zenith_mlir.ops.arguments import check, check_choice, check_shape, floating, integers
from zenith_mlir.ops.batching import rows
from zenith_mlir.ops.primitive import Gradient, Operation, bind, define


def _dtype(logits: Any) -> Any:
    """That of the results: float32, and float64 where the logits are."""
    return jnp.promote_types(logits.dtype, jnp.float32)


def _formula(logits: Any, labels: Any, *, spec: CrossEntropySpec) -> tuple[Any, ...]:
    results = dialect.reference(spec, logits, labels, dtype=_dtype(logits))
    return results if spec.residuals else (results,)


def _formula_vjp(logits: Any, *rest: Any, spec: CrossEntropyVjpSpec) -> tuple[Any]:
    return (dialect_vjp.reference(spec, logits, *rest),)


def _by_row(spec: CrossEntropySpec, operands: int) -> tuple[Sequence[bool], Sequence[bool]]:
    return [True] * operands, [True] * len(spec.result_names)


def _keep(spec: CrossEntropySpec) -> CrossEntropySpec:
    return dataclasses.replace(spec, residuals=True)


def _pull(
    spec: CrossEntropySpec, operands: Sequence[Any], results: Sequence[Any], cotangents: Sequence[Any], wanted: Any
) -> Any:
    asked = CrossEntropyVjpSpec(**dataclasses.asdict(spec))
    return bind(_vjp_p, asked, *operands, cotangents[0], *results[1:])


_vjp_p = define(Operation(dialect_vjp.NAME, _formula_vjp, CrossEntropyVjpSpec.to_attributes, rows(_by_row)))
_gradient = Gradient(keep=_keep, results=lambda spec: 1, pull=_pull)
cross_entropy_p = define(Operation(dialect.NAME, _formula, CrossEntropySpec.to_attributes, rows(_by_row), _gradient))


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    outside: str = "fill",
) -> jax.Array:
    r"""Cross-entropy of integer labels, a loss for each row of logits.

    .. math::
      t_j = (1 - smoothing) [j = label] + smoothing / V \qquad
      loss = \sum_j t_j (\log \sum_i \exp(x_i) - x_j) + z\_loss (\log \sum_i \exp(x_i))^2

    Neither the forward nor the gradient keeps a softmax over the vocabulary. For a masked mean multiply the losses by
    the mask, sum, and divide by the mask's sum.

    Args:
      logits: floating-point array x of shape [..., V].
      labels: integers of shape [...].
      label_smoothing: the share of the target that is spread over all V.
      z_loss: the factor of the square of the log-sum-exp.
      outside: what a label means that is no column. "fill": negative ones count from the end, beyond that the loss is
        NaN, as `jnp.take_along_axis` has it; "zero": no column is the label's, as `jax.nn.one_hot` has it; "drop": the
        label's logit is 0, as in log-sum-exp minus a sum over a one-hot.

    Returns: losses of shape [...], float32 (float64 for logits in float64).

    Raises:
      TypeError: if logits are not of floating-point numbers or labels not integers.
      ValueError: if shapes do not fit, or for an unknown `outside`.
    """
    op = "cross_entropy"
    check_choice(op, "outside", outside, ("fill", "zero", "drop"))
    (logits,) = floating(op, logits=logits)
    check(op, logits.ndim > 0, "logits is a scalar, expected a row for each label, with a column for each class")
    labels = integers(op, "labels", labels)
    why = f"that of logits, {list(logits.shape)}, without the classes"
    if labels.shape == logits.shape:
        why += "; of one-hot labels take labels.argmax(-1)"
    check_shape(op, "labels", labels, logits.shape[:-1], why)
    spec = CrossEntropySpec(smoothing=float(label_smoothing), z_loss=float(z_loss), outside=outside)
    (loss,) = bind(cross_entropy_p, spec, logits, labels)
    return loss
