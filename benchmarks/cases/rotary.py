"""Rotary embeddings of queries, both pairings."""

from __future__ import annotations

from typing import Any

from cases.case import Case, Family, Input, Program, composite


def _attributes(case: Case) -> dict[str, Any]:
    sizes = {"b": case["B"], "t": case["S"], "h": case["H"], "d": case["D"], "r": case["D"]}
    return {"axes": sizes, "x": "b t h d", "table": "t r", "rotated": case["D"], "pairing": case.variant}


def _inputs(case: Case) -> list[Input]:
    table = Input((case["S"], case["D"]), "float32")
    return [Input((case["B"], case["S"], case["H"], case["D"])), table, table]


def _torch(case: Case) -> Program:
    """As Hugging Face writes it (half), and GPT-J (interleaved)."""
    import torch

    def half(x: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    def interleaved(x: Any) -> Any:
        return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

    turn = {"half": half, "interleaved": interleaved}[case.variant]

    def rotary(x: Any, cos: Any, sin: Any) -> Any:
        cos, sin = (table[:, None, :].to(x.dtype) for table in (cos, sin))
        return x * cos + turn(x) * sin

    return rotary


def _bytes(case: Case) -> float:
    return 2.0 * case["B"] * case["S"] * case["H"] * case["D"] * (4 if case.dtype == "float32" else 2)


FAMILIES = [
    Family(
        "rotary",
        [
            Case.of("rotary", dtype, pairing, B=batch, S=seq, H=heads, D=depth)
            for dtype in ("float32", "bfloat16")
            for pairing in ("half", "interleaved")
            for batch, seq, heads, depth in ((1, 2048, 32, 128), (8, 128, 12, 64), (8, 1, 32, 128))
        ],
        **composite("zenith.rotary", _attributes, _inputs),
        torch=_torch,
        bytes=_bytes,
    )
]
