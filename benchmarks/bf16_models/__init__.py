"""What benchmarks/precision_peers.py measures: models that their libraries can compute in bfloat16 themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module

from bf16_models.model import Model

_LIBRARIES = ("linen", "nnx", "hugging_face", "keras", "haiku")


def models(pattern: str = "") -> Iterator[Model]:
    """Those in whose name `pattern` occurs, of the libraries that are installed."""
    for library in _LIBRARIES:
        try:
            found = import_module(f"bf16_models.{library}").MODELS
        except ImportError as error:
            print(f"{library}: {error}", file=sys.stderr)
            continue
        yield from (model for model in found if pattern.lower() in model.name.lower())
