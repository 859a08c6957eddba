"""The arrays among a model's parameters, apart from what else is in their pytree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from zenith_mlir.onnx.source.inputs import is_array
from zenith_mlir.onnx.source.model import Model

__all__ = ["Weights"]


@dataclass(frozen=True)
class Weights:
    """`names[i]` is `arrays[i]`. Other leaves of the pytree, as activation functions, numbers and flags, are `others`
    by their position in it: they are part of the program.
    """

    names: list[str]
    arrays: list[Any]
    others: dict[int, Any]
    structure: jax.tree_util.PyTreeDef

    @classmethod
    def of(cls, model: Model) -> Weights:
        leaves, structure = jax.tree_util.tree_flatten_with_path(model.params)
        arrays = [(path, leaf) for path, leaf in leaves if is_array(leaf)]
        others = {i: leaf for i, (_, leaf) in enumerate(leaves) if not is_array(leaf)}
        return cls([model.parameter_name(path) for path, _ in arrays], [leaf for _, leaf in arrays], others, structure)

    def put_back(self, arrays: Sequence[Any]) -> Any:
        """The pytree with these in the place of its arrays."""
        rest = iter(arrays)
        leaves = [self.others[i] if i in self.others else next(rest) for i in range(self.structure.num_leaves)]
        return jax.tree.unflatten(self.structure, leaves)
