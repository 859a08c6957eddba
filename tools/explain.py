"""What `zenith-opt --list-passes` and `--explain` print."""

from __future__ import annotations

import inspect

from zenith_mlir import native, registry
from zenith_mlir.errors import PipelineError, did_you_mean
from zenith_mlir.options import format_value, options_of, type_name
from zenith_mlir.pipeline import PIPELINES, Pipeline

__all__ = ["explain", "list_passes"]


def list_passes() -> str:
    """Every pass and pipeline with one line about each."""
    sections = {
        "Passes": {name: _first_line(name) for name in registry.names()},
        "Pipelines": dict(PIPELINES),
        "Native passes": dict(native.NATIVE_PASSES),
    }
    width = max(len(name) for section in sections.values() for name in section)
    lines = []
    for title, section in sections.items():
        lines += [f"{title}:", *(f"  {name:{width}}  {text}" for name, text in section.items()), ""]
    return "\n".join(lines[:-1])


def explain(name: str) -> str:
    """All there is to know about one pass or pipeline.

    Raises:
        PipelineError: if there is none of that name.
    """
    if name in registry.names():
        return _explain_pass(name)
    if name in PIPELINES:
        return f"{name}: the pipeline {PIPELINES[name]!r}, which runs\n\n  {Pipeline.parse(name)}"
    if native.exists(name):
        defaults = native.defaults(name)
        about = native.NATIVE_PASSES.get(name, "a native pass of jaxlib")
        return f"{name}: {about}\n\nOptions and their defaults: {defaults or 'none'}"
    known = [*registry.names(), *PIPELINES, *native.NATIVE_PASSES]
    raise PipelineError(f"unknown pass {name}{did_you_mean(name, known)}; --list-passes shows them all")


def _explain_pass(name: str) -> str:
    cls = registry.find(name)
    lines = [f"{name}: {inspect.getdoc(cls) or 'no description'}", ""]
    options = options_of(cls).values()
    lines.append("Options:" if options else "Options: none")
    for option in options:
        lines.append(f"  {option.name}=<{type_name(option.type)}>  (default {format_value(option.default)})")
        lines += [f"      {option.help}"] if option.help else []
    return "\n".join(lines)


def _first_line(name: str) -> str:
    try:
        return (inspect.getdoc(registry.find(name)) or "").partition("\n")[0]
    except Exception as error:  # a pass of some package that does not import is no reason to hide the others
        return f"(cannot be imported: {error})"
