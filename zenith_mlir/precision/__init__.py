"""`zenith.precision`: mixed precision by hand, with parameters, gradients and losses that stay as they are.

===================  ================================================================================
`policy.py`          `Policy`: the dtypes of parameters, of computing and of results
`wrap.py`            `Policy.wrap`: functions, Flax and Equinox modules that run under a policy
`loss_scale.py`      `DynamicLossScale`, `StaticLossScale`, `NoLossScale`
`trees.py`           `all_finite`, `select_tree`: one decision over a pytree and over devices
`training.py`        `value_and_grad`, `train_step`: scaled losses, skipped updates
`cast/`              the pass `cast-precision`: classes of operations, their propagation, the rewriting
===================  ================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zenith_mlir.lazily import attributes

if TYPE_CHECKING:
    from zenith_mlir.precision.loss_scale import DynamicLossScale as DynamicLossScale
    from zenith_mlir.precision.loss_scale import LossScale as LossScale
    from zenith_mlir.precision.loss_scale import LossScaleError as LossScaleError
    from zenith_mlir.precision.loss_scale import NoLossScale as NoLossScale
    from zenith_mlir.precision.loss_scale import StaticLossScale as StaticLossScale
    from zenith_mlir.precision.policy import Policy as Policy
    from zenith_mlir.precision.policy import PolicyError as PolicyError
    from zenith_mlir.precision.precision_report import PrecisionReport as PrecisionReport
    from zenith_mlir.precision.reporting import report as report
    from zenith_mlir.precision.training import Gradients as Gradients
    from zenith_mlir.precision.training import TrainStep as TrainStep
    from zenith_mlir.precision.training import train_step as train_step
    from zenith_mlir.precision.training import value_and_grad as value_and_grad
    from zenith_mlir.precision.trees import all_finite as all_finite
    from zenith_mlir.precision.trees import select_tree as select_tree

_HOMES = {
    "DynamicLossScale": "loss_scale",
    "Gradients": "training",
    "LossScale": "loss_scale",
    "LossScaleError": "loss_scale",
    "NoLossScale": "loss_scale",
    "Policy": "policy",
    "PolicyError": "policy",
    "PrecisionReport": "precision_report",
    "StaticLossScale": "loss_scale",
    "TrainStep": "training",
    "all_finite": "trees",
    "report": "reporting",
    "select_tree": "trees",
    "train_step": "training",
    "value_and_grad": "training",
}

__all__ = list(_HOMES)

__getattr__ = attributes(__name__, _HOMES)
