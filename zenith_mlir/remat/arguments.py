"""The arguments of a call, taken apart into what is traced and what is left as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from zenith_mlir.errors import OptionError

__all__ = ["Call"]


@dataclass(frozen=True, eq=False)
class Call:
    """Arguments as flat leaves: `arrays` are those that are traced, at the places `traced` among `leaves`."""

    leaves: list[Any]
    traced: list[int]
    structure: Any

    @classmethod
    def of(
        cls, args: Sequence[Any], kwargs: Mapping[str, Any], numbers: Collection[int], names: Collection[str]
    ) -> Call:
        """Arguments at the positions `numbers`, negative ones from the end, and of the keywords `names` are not traced;
        neither are leaves that are no arrays.

        Raises:
            OptionError: for a position that there is not.
        """
        for number in numbers:
            if not -len(args) <= number < len(args):
                raise OptionError(f"static_argnums has {number}, and the call has {len(args)} positional arguments")
        fixed = {number % len(args) for number in numbers}
        tree = (
            [_Fixed(x) if k in fixed else x for k, x in enumerate(args)],
            {name: _Fixed(x) if name in names else x for name, x in kwargs.items()},
        )
        leaves, structure = jax.tree.flatten(tree)
        return cls(leaves, [k for k, leaf in enumerate(leaves) if _is_array(leaf)], structure)

    @property
    def arrays(self) -> list[Any]:
        return [self.leaves[k] for k in self.traced]

    def with_arrays(self, arrays: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments again, with other arrays in place of those."""
        leaves = list(self.leaves)
        for k, array in zip(self.traced, arrays, strict=True):
            leaves[k] = array
        leaves = [leaf.value if isinstance(leaf, _Fixed) else leaf for leaf in leaves]
        args, kwargs = jax.tree.unflatten(self.structure, leaves)
        return args, kwargs


@dataclass(frozen=True, eq=False)
class _Fixed:
    """A static argument: one leaf, whatever it holds."""

    value: Any


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind not in "OSU"
    return isinstance(leaf, jax.Array | bool | int | float | complex) or hasattr(leaf, "__jax_array__")
