"""Live models for the comparison of exporters, by library."""

from importlib import import_module

from exporting.models.model import Built, Model

LIBRARIES = ("linen", "nnx", "equinox", "plain", "hugging_face", "haiku")


def models() -> dict[str, Model]:
    """All of them by name. Imports the libraries."""
    modules = (import_module(f"exporting.models.{name}") for name in LIBRARIES)
    return {model.name: model for module in modules for model in module.MODELS}


__all__ = ["LIBRARIES", "Built", "Model", "models"]
