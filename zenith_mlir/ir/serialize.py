"""Reading and writing modules: text, bytecode, portable artifacts and what `jax.export` serializes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _stablehlo

from zenith_mlir.errors import ReadError, ZenithError
from zenith_mlir.ir import guard
from zenith_mlir.ir.diagnostics import describe, describe_diagnostic
from zenith_mlir.ir.native_stderr import captured_stderr

__all__ = [
    "as_module",
    "bytecode",
    "check_writable",
    "clone",
    "format_of",
    "portable_artifact",
    "read",
    "read_file",
    "save",
    "text",
    "write_file",
]

_MAGIC = b"ML\xefR"
_PORTABLE = re.compile(rb"ML\xefR.StableHLO_v", re.DOTALL)
# Brackets opened one in another. MLIR's parser recurses, and overflows the stack somewhere above 4000.
_TOO_DEEP = re.compile(r"(?:[\[({<][^\[({<\])}>]*+){1000}")


def read(source: str | bytes, context: ir.Context, name: str, line: int = 1, isolated: bool = False) -> ir.Module:
    """A module from text or from any of the binary formats.

    `name` is the file in messages and locations, `line` the number of its first line here. Damaged bytecode
    can abort the process, so it is first read in another one, unless `isolated` says that an abort is already
    being caught.

    Raises:
        ReadError: the message starts with `name:line:col` where there is such a place.
    """
    if not source.strip():
        raise ReadError(f"{name}: the file is empty; a StableHLO module is expected")
    kind = format_of(source)
    if kind == "text":
        return _READERS[kind](source, context, name, line)
    if not isolated:
        guard.check(bytes(source), name)  # type: ignore[arg-type]  # a str is text
    with captured_stderr():  # the last words of a process that aborts
        return _READERS[kind](source, context, name, line)


def read_file(path: str) -> bytes:
    """The content of a file, or of standard input for `-`.

    Raises:
        ReadError: if it cannot be read.
    """
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror}") from None


def format_of(source: str | bytes) -> str:
    """One of "text", "bytecode", "portable", "export"."""
    if isinstance(source, str):
        return "text"
    if _PORTABLE.match(source):
        return "portable"
    if source.startswith(_MAGIC):
        return "bytecode"
    return "export" if _exported_artifact(source) else "text"


def _read_text(source: str | bytes, context: ir.Context, name: str, line: int) -> ir.Module:
    asm = source if isinstance(source, str) else _decode(source, name)
    if _TOO_DEEP.search(asm):
        raise ReadError(f"{name}: more than 1000 brackets are open at once; this is no StableHLO module")
    try:
        # Blank lines in front make MLIR count lines as the file has them.
        module = ir.Module.parse("\n" * (line - 1) + asm, context)
    except (ir.MLIRError, ValueError) as error:
        raise ReadError(describe(error, rename={"-": name})) from None
    _rename_file(module, "-", name)
    return module


def _decode(source: bytes, name: str) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        what = "MLIR text, MLIR bytecode, a StableHLO portable artifact or a serialized jax.export.Exported"
        raise ReadError(
            f"{name}: byte {error.start} is not UTF-8, and this is no other known format; expected {what}"
        ) from None


def _read_bytecode(source: Any, context: ir.Context, name: str, line: int) -> ir.Module:
    try:
        return ir.Module.parse(source, context)
    except (ir.MLIRError, ValueError, MemoryError) as error:
        raise ReadError(f"{name}: damaged bytecode: {describe(error)}") from None


def _read_portable(source: Any, context: ir.Context, name: str, line: int) -> ir.Module:
    with _diagnostics(context) as found:
        try:
            return _stablehlo.deserialize_portable_artifact(context, source)
        except (ValueError, MemoryError) as error:
            why = "; ".join(found) or str(error)
            current = _stablehlo.get_current_version()
            raise ReadError(f"{name}: damaged portable artifact, or newer than StableHLO {current}: {why}") from None


def _read_export(source: Any, context: ir.Context, name: str, line: int) -> ir.Module:
    return _read_portable(_exported_artifact(source), context, name, line)


_READERS: Mapping[str, Callable[[Any, ir.Context, str, int], ir.Module]] = {
    "text": _read_text,
    "bytecode": _read_bytecode,
    "portable": _read_portable,
    "export": _read_export,
}


def _exported_artifact(blob: bytes) -> bytes | None:
    """The portable artifact in a serialized `jax.export.Exported`, or None if `blob` is something else.

    The blob is a FlatBuffer whose root table has the module in field 13; reading that one field by hand needs
    neither jax nor the flatbuffers package.
    """
    try:
        (root,) = struct.unpack_from("<I", blob, 0)
        (to_vtable,) = struct.unpack_from("<i", blob, root)
        (field,) = struct.unpack_from("<H", blob, root - to_vtable + 4 + 2 * 13)
        at = root + field
        at += struct.unpack_from("<I", blob, at)[0]
        (length,) = struct.unpack_from("<I", blob, at)
    except struct.error:
        return None
    artifact = blob[at + 4 : at + 4 + length]
    return artifact if len(artifact) == length and artifact.startswith(_MAGIC) else None


def _rename_file(module: ir.Module, old: str, new: str) -> None:
    """Give the operations that MLIR's parser located in `old` the file name `new`: the bindings take no name
    to parse.
    """

    def rename(location: ir.Location) -> ir.Location | None:
        if isinstance(location, ir.FileLineColLoc) and location.filename == old:
            return ir.Location.file(new, location.start_line, location.start_col, module.context)
        return None

    def visit(op: ir.Operation) -> ir.WalkResult:
        if (location := rename(op.location)) is not None:
            op.location = location
        for region in op.regions:
            for block in region.blocks:
                for argument in block.arguments:
                    if (location := rename(argument.location)) is not None:
                        argument.set_location(location)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)


def clone(module: ir.Module) -> ir.Module:
    """A copy in the same context."""
    return as_module(module.operation.clone())


def as_module(op: ir.Operation) -> ir.Module:
    """The `ir.Module` of a detached `builtin.module` operation, which the bindings cannot make of one."""
    module = ir.Module.create(op.location)
    for name in op.attributes:
        module.operation.attributes[name] = op.attributes[name]
    for inner in list(op.regions[0].blocks[0].operations):
        module.body.append(inner)
    return module


def text(module: ir.Module, debug_info: bool = False) -> str:
    """The module as MLIR text, ending with a line break."""
    return str(module.operation.get_asm(enable_debug_info=debug_info)).rstrip("\n") + "\n"


def bytecode(module: ir.Module) -> bytes:
    """The module as MLIR bytecode."""
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def portable_artifact(module: ir.Module, version: str = "current") -> bytes:
    """The module as a StableHLO portable artifact of a version: "current", "minimum" or "1.9.0".

    Raises:
        ZenithError: for a version jaxlib cannot write, or an operation of another dialect.
    """
    lowest, highest = _stablehlo.get_minimum_version(), _stablehlo.get_current_version()
    version = {"current": highest, "minimum": lowest}.get(version, version.removeprefix("v"))
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or not _as_tuple(lowest) <= _as_tuple(version) <= _as_tuple(highest):
        raise ZenithError(f"this jaxlib writes StableHLO {lowest} to {highest} (or current, minimum), not {version!r}")
    with _diagnostics(module.context) as found:
        try:
            # A copy: where it fails, the module is left half converted.
            return bytes(_stablehlo.serialize_portable_artifact(clone(module), version))
        except ValueError as error:
            foreign = _operations_of_other_dialects(module)
            why = f"it has {', '.join(foreign)}" if foreign else "; ".join(found) or str(error)
            cure = "run chlo-legalize-to-stablehlo or the like first" if foreign else "take a newer version"
            raise ZenithError(f"the module cannot be written in StableHLO {version}: {why}; {cure}") from None


def _operations_of_other_dialects(module: ir.Module) -> list[str]:
    names = set()

    def visit(op: ir.Operation) -> ir.WalkResult:
        names.add(op.name)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return sorted(name for name in names if name.partition(".")[0] not in ("builtin", "func", "stablehlo"))


def save(module: ir.Module, path: str | os.PathLike[str]) -> None:
    """Write a module as the ending of `path` says, `.mlir` text or `.mlirbc` bytecode, both with source
    locations.

    Raises:
        ZenithError: for another ending or a place that cannot be written.
    """
    ending = os.path.splitext(path)[1]
    if ending == ".mlir":
        write_file(path, text(module, debug_info=True).encode())
    elif ending == ".mlirbc":
        write_file(path, bytecode(module))
    else:
        raise ZenithError(f"{os.fspath(path)}: a module is saved as .mlir (text) or .mlirbc (bytecode), not {ending!r}")


def check_writable(path: str | None) -> None:
    """Find out before the work is done that a file cannot be written; None, `-` and existing devices always
    can.

    Raises:
        ZenithError: saying why.
    """
    if path is None or path == "-":
        return
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise ZenithError(f"cannot write {path}: it is a directory")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise ZenithError(f"cannot write {path}: permission denied")
    if not os.path.isdir(folder):
        raise ZenithError(f"cannot write {path}: there is no directory {folder}")
    if not os.path.exists(path) and not os.access(folder, os.W_OK):
        raise ZenithError(f"cannot write {path}: permission denied in {folder}")


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all: beside it first, then renamed. A device or pipe is written directly.

    Raises:
        ZenithError: where that is not possible.
    """
    path = os.path.realpath(path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.write(content)
            return
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f".{os.path.basename(path)}.")
        try:
            with open(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, _mode(path))
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ZenithError(f"cannot write {path}: {error.strerror}") from None


def _mode(path: str) -> int:
    """The permissions a file has, or would get from `open`."""
    if os.path.exists(path):
        return os.stat(path).st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _as_tuple(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@contextlib.contextmanager
def _diagnostics(context: ir.Context) -> Iterator[list[str]]:
    """Collect diagnostics that native code would print."""
    found: list[str] = []

    def collect(diagnostic: ir.Diagnostic) -> bool:
        found.append(describe_diagnostic(diagnostic))
        return True

    handler: Any = context.attach_diagnostic_handler(collect)
    try:
        yield found
    finally:
        handler.detach()
