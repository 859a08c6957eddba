"""The shapes of a matrix product as axes and layouts of a zenith.matmul."""

from __future__ import annotations

from collections.abc import Sequence

from zenith_mlir.dialects.layout import Layout
from zenith_mlir.dialects.matmul import MatmulSpec
from zenith_mlir.ops.arguments import check


def bare_spec(x: Sequence[int], y: Sequence[int]) -> MatmulSpec:
    """The product of arrays of these shapes as jnp.matmul has it. Axes are p0, p1, ... parallel, m0, ... rows, n0
    columns and k0 summed over.
    """
    shapes = f"x has shape {list(x)} and y {list(y)}"
    check("matmul", len(x) > 0 and len(y) > 0, f"{shapes}, expected at least one axis each; multiply scalars with *")
    k = y[-2] if len(y) > 1 else y[0]
    check("matmul", x[-1] == k, f"{shapes}, expected as many columns of x as rows of y, not {x[-1]} and {k}")
    of_x, of_y = list(x[:-2]), list(y[:-2])
    count = max(len(of_x), len(of_y))
    of_x, of_y = [1] * (count - len(of_x)) + of_x, [1] * (count - len(of_y)) + of_y
    fits = all(a == b or 1 in (a, b) for a, b in zip(of_x, of_y, strict=True))
    check("matmul", fits, f"{shapes}, expected leading axes that broadcast")
    axes: dict[str, int] = {"k0": k}
    lhs: list[tuple[str, ...]] = []
    rhs: list[tuple[str, ...]] = []
    out: list[tuple[str, ...]] = []

    def axis(kind: str, size: int) -> tuple[str, ...]:
        name = f"{kind}{sum(known[0] == kind for known in axes)}"
        axes[name] = size
        return (name,)

    for a, b in zip(of_x, of_y, strict=True):
        is_one = (a == 1 and b != 1, b == 1 and a != 1)
        dim = axis("n" if is_one[0] else "m" if is_one[1] else "p", max(a, b))
        lhs.append(() if is_one[0] else dim)
        rhs.append(() if is_one[1] else dim)
        out.append(dim)
    if len(x) > 1:
        row = axis("m", x[-2])
        lhs.append(row)
        out.append(row)
    if len(y) > 1:
        column = axis("n", y[-1])
        rhs.append(("k0",))
        rhs.append(column)
        out.append(column)
    else:
        rhs.append(("k0",))
    lhs.append(("k0",))
    sizes = dict(sorted(axes.items()))
    # A leading axis that an operand does not have at all has no dimension of size one either.
    return MatmulSpec(
        sizes, Layout(tuple(lhs[len(lhs) - len(x) :])), Layout(tuple(rhs[len(rhs) - len(y) :])), Layout(tuple(out))
    )


def added_layout(name: str, shape: Sequence[int], spec: MatmulSpec) -> Layout:
    """The layout of what is added to the result."""
    result = spec.out.shape(spec.axes)
    own = spec.out.dims[max(0, len(result) - len(shape)) :]
    wide = result[max(0, len(result) - len(shape)) :]
    fits = len(shape) <= len(result) and all(size in (1, full) for size, full in zip(shape, wide, strict=True))
    check(
        "matmul", fits, f"{name} has shape {list(shape)}, expected one that broadcasts to the result's {list(result)}"
    )
    return Layout(tuple(() if size == 1 else dim for size, dim in zip(shape, own, strict=True)))
