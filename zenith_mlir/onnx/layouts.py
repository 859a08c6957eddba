"""Inputs and outputs of which the file has the dimensions in another order than the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zenith_mlir.errors import ZenithError

__all__ = ["stored_permutation"]


def stored_permutation(layouts: Mapping[str, str], name: str, dims: Sequence[int]) -> list[int]:
    """For each axis of the file the dimension of the program: [0, 3, 1, 2] for "NHWC->NCHW".

    Raises:
        ZenithError: for a layout that does not say where each dimension goes.
    """
    text = layouts.get(name)
    if text is None:
        return list(range(len(dims)))
    program, arrow, file = (part.strip() for part in text.partition("->"))
    fits = arrow and len(program) == len(dims) and sorted(program) == sorted(file) == sorted(set(program))
    if not fits:
        raise ZenithError(
            f"the layout {text!r} of {name}, which has {len(dims)} dimensions, is not of the form NHWC->NCHW: a letter "
            "for each dimension as the program has them, and the same letters as the file should"
        )
    return [program.index(letter) for letter in file]
