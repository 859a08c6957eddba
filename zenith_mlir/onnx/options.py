"""How a model is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from zenith_mlir.errors import ZenithError

__all__ = ["OPSETS", "Fused", "Options", "Placement"]

Placement = Literal["initializer", "external", "input"]
Fused = Literal["measured", "always", "never"]
OPSETS = range(17, 25)


@dataclass(frozen=True)
class Options:
    """How a model is written.

    Attributes:
      opset: of ONNX's own domain, 17 to 24.
      weights: in the file ("initializer"), in a file beside it with `.data` appended ("external"), or given by the
        caller of the model ("input").
      passes: the pipeline that the module goes through; "default" is the pipeline "onnx".
      metadata: what the file says of itself, beside what it computes.
      layouts: by the name of an input or output, how the program has its dimensions and how the file should,
        "NHWC->NCHW".
      fused: ONNX's fused operators where they were measured to be no slower on onnxruntime's CPU ("measured"),
        wherever they mean the same ("always"), or not at all ("never").
      microsoft: whether operators of onnxruntime's domain com.microsoft may be used.

    Raises:
        ZenithError: for a value that is none of these.
    """

    opset: int = 23
    weights: Placement = "initializer"
    passes: str = "default"
    metadata: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)
    fused: Fused = "measured"
    microsoft: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.opset, int) or self.opset not in OPSETS:
            raise ZenithError(f"opset {self.opset!r} cannot be written; there are {OPSETS[0]} to {OPSETS[-1]}")
        for name, choices in (("weights", get_args(Placement)), ("fused", get_args(Fused))):
            if getattr(self, name) not in choices:
                raise ZenithError(f"{name}={getattr(self, name)!r}: it is one of {', '.join(map(repr, choices))}")
        for name in ("metadata", "layouts"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise ZenithError(f"{name} is a mapping from names to strings, not {type(given).__name__}")
        for key, value in self.metadata.items():
            if not (isinstance(key, str) and isinstance(value, str)):
                raise ZenithError(f"metadata is strings by name; {key!r}: {value!r} is none, write it as a string")

    @property
    def pipeline(self) -> str:
        return "onnx" if self.passes == "default" else self.passes
