"""What a module says of the symbolic dimensions of its arguments.

JAX names the sizes (`jax.global_constant` of scalar arguments) but not which dimension of an argument is which: the
type is `tensor<?x?xf32>`. `zenith.dimensions = "b, 2*s"` on an argument says it, in JAX's spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.ir.signature import argument_attributes, main_function

__all__ = ["is_symbolic", "size_name", "state_dimensions", "stated_dimensions"]

_STATED = "zenith.dimensions"
# Set by JAX on the arguments that hold the sizes of symbolic dimensions.
_SIZE = "jax.global_constant"


def is_symbolic(module: ir.Module) -> bool:
    """Whether `main` takes sizes, or arrays of sizes that are not known."""
    main = main_function(module)
    if any(_SIZE in attributes for attributes in argument_attributes(main)):
        return True
    arguments = main.regions[0].blocks[0].arguments
    return any(isinstance(each.type, ir.RankedTensorType) and not each.type.has_static_shape for each in arguments)


def state_dimensions(module: ir.Module, arrays: Sequence[Any]) -> None:
    """Say of which shape (`.shape`, ints and symbolic dimensions) each argument of `main` was traced, sizes aside.

    Nothing is said where the numbers of arguments differ, as when jax.jit dropped some that are not used.
    """
    main = main_function(module)
    said = argument_attributes(main)
    data = [index for index, attributes in enumerate(said) if _SIZE not in attributes]
    if not said or len(data) != len(arrays) or len(data) == len(said):
        return
    with module.context:
        for index, array in zip(data, arrays, strict=True):
            stated = ir.StringAttr.get(", ".join(map(str, getattr(array, "shape", ()))))
            entries = {named.name: named.attr for named in (said[index][i] for i in range(len(said[index])))}
            said[index] = ir.DictAttr.get({**entries, _STATED: stated})
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(said)


def stated_dimensions(attributes: ir.DictAttr) -> list[str] | None:
    """The dimensions that `state_dimensions` put on an argument."""
    return str(ir.StringAttr(attributes[_STATED]).value).split(", ") if _STATED in attributes else None


def size_name(attributes: ir.DictAttr) -> str | None:
    """The symbol whose size an argument holds."""
    # JAX puts an empty name on all arguments of the functions that jax.export computes sizes with.
    return (str(ir.StringAttr(attributes[_SIZE]).value) or None) if _SIZE in attributes else None
