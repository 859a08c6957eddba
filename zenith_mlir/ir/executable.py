"""Compiling any StableHLO module with the XLA that JAX uses, and calling it on arrays. No jaxpr needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

# Private: JAX has no public way to compile a module that did not come from a jaxpr. The client, its compile
# options and its device list are what jax.jit itself uses, with the same signatures from 0.10 to 0.12
# (test_executable.py).
from jax._src import compiler
from jax._src.lib import lapack, xla_client
from jax.extend.backend import get_backend

from zenith_mlir.errors import ZenithError
from zenith_mlir.ir.compiler_options import apply as apply_required
from zenith_mlir.ir.signature import argument_attributes
from zenith_mlir.target import Target

if TYPE_CHECKING:
    from zenith_mlir.module import Module

__all__ = ["Executable", "ExecutableError", "compile_module"]


class ExecutableError(ZenithError):
    """A module that cannot be compiled here, or arguments that do not fit it."""


def compile_module(
    module: Module, target: str | Target | None = None, *, compiler_options: Mapping[str, Any] | None = None
) -> Executable:
    """Compile `module` for one device of `target`'s platform (None: JAX's default), leaving it unchanged.
    `compiler_options` are XLA's, as for `jax.jit(f).lower(...).compile(compiler_options=...)`; what the module itself
    requires (`zenith_mlir.ir.compiler_options`) is added to them.

    Raises:
        ExecutableError: if the platform has no device here, the module has no `main`, spans several devices,
            takes tokens or dynamic shapes, calls back into Python, or if XLA refuses it.
        TargetError: for a target that cannot be parsed.
    """
    platform = None if target is None else Target.parse(target).platform
    main = _entry(module)
    _refuse_several_devices(module)
    _refuse_arguments(main)
    _prepare_custom_calls(module)
    client = _client(platform)
    device = client.local_devices()[0]
    try:
        options = compiler.get_compile_options(
            num_replicas=1,
            num_partitions=1,
            device_assignment=np.array([[device]]),
            env_options_overrides=dict(compiler_options or {}),
            backend=client,
        )
        apply_required(module.ir, client.platform, options)
        loaded = client.compile_and_load(
            module.ir, executable_devices=xla_client.DeviceList((device,)), compile_options=options
        )
    except jax.errors.JaxRuntimeError as error:
        raise ExecutableError(f"XLA does not compile this module for {client.platform}: {error}") from error
    return Executable(loaded, device, module.input_specs, _donated(main))


class Executable:
    """A compiled module: call it with one array per argument of `main`, get a flat tuple of `jax.Array`s.
    Arguments are NumPy or JAX arrays (Python scalars for rank 0) of exactly the declared shape and dtype,
    whatever `jax_enable_x64` says. They are the caller's: one that `main` declares donated is copied first,
    never deleted. Raises `ExecutableError` for arguments that do not fit.
    """

    def __init__(self, loaded: Any, device: jax.Device, specs: list[Any], donated: frozenset[int]):
        self._loaded = loaded
        self._device = device
        self._specs = specs
        self._donated = donated

    def __call__(self, *arrays: Any) -> tuple[jax.Array, ...]:
        if len(arrays) != len(self._specs):
            count = len(self._specs)
            raise ExecutableError(f"main takes {count} arrays, got {len(arrays)}; {self._signature()}")
        # 64-bit arguments keep their type whatever the caller's setting.
        with jax.enable_x64(True):
            buffers = [self._place(i, array) for i, array in enumerate(arrays)]
        results = self._loaded.execute_sharded(buffers).disassemble_into_single_device_arrays()
        return tuple(shards[0] for shards in results)

    def memory_analysis(self) -> Any:
        """As `jax.stages.Compiled.memory_analysis`: sizes in bytes of temporaries, arguments, outputs and
        code."""
        return self._loaded.get_compiled_memory_stats()

    def cost_analysis(self) -> dict[str, float]:
        """As `jax.stages.Compiled.cost_analysis`: XLA's count of flops and bytes."""
        return dict(self._loaded.cost_analysis())

    def hlo_modules(self) -> list[Any]:
        """The optimised HLO, as `jax.stages.Compiled.runtime_executable().hlo_modules()`."""
        return list(self._loaded.hlo_modules())

    def as_text(self) -> str:
        """The optimised HLO."""
        return "\n\n".join(module.to_string() for module in self.hlo_modules())

    def _place(self, index: int, array: Any) -> jax.Array:
        """`array` on the executable's device, checked; a private copy if the executable consumes it."""
        spec = self._specs[index]
        if isinstance(array, jax.core.Tracer):
            raise ExecutableError(
                "an Executable runs on concrete arrays and cannot be traced by jit, grad or vmap; "
                "transform the JAX function instead and compile that"
            )
        if isinstance(array, bool | int | float | complex) and not spec.shape:
            array = np.asarray(array, spec.dtype)
        if not hasattr(array, "dtype"):
            array = np.asarray(array)
        if tuple(array.shape) != tuple(spec.shape) or array.dtype != spec.dtype:
            named = f" ({spec.name})" if spec.name else ""
            raise ExecutableError(
                f"argument {index}{named} is {_shown(spec.shape, spec.dtype)}, "
                f"got {_shown(array.shape, array.dtype)}; reshape or convert it"
            )
        if index in self._donated:
            array = np.array(array, copy=True) if isinstance(array, np.ndarray) else array.copy()
        placed: jax.Array = jax.device_put(array, self._device)
        return placed

    def _signature(self) -> str:
        return "it is main(" + ", ".join(_shown(spec.shape, spec.dtype) for spec in self._specs) + ")"


def _entry(module: Module) -> Any:
    op: Any
    for op in module.body.operations:
        if op.operation.name == "func.func" and op.attributes["sym_name"].value == "main":
            return op
    raise ExecutableError("the module has no function @main to call; name its entry point main")


# Attributes by which an argument's buffer may be reused for a result.
_DONATING = ("jax.buffer_donor", "tf.aliasing_output")


def _donated(main: Any) -> frozenset[int]:
    """The arguments of `main` whose buffers a call consumes."""
    arguments = enumerate(argument_attributes(main))
    return frozenset(i for i, attributes in arguments if any(name in attributes for name in _DONATING))


def _refuse_several_devices(module: Module) -> None:
    attributes: Any = module.operation.attributes
    for name in ("mhlo.num_partitions", "mhlo.num_replicas"):
        if name in attributes and attributes[name].value > 1:
            raise ExecutableError(
                f"the module is written for {attributes[name].value} devices ({name}) and an Executable runs "
                "on one; call the function through jax.jit under zenith_mlir.pipeline(...) instead"
            )


def _refuse_arguments(main: Any) -> None:
    """Tokens and dynamic shapes have no array to pass."""
    for kind, types in (("argument", main.type.inputs), ("result", main.type.results)):
        for i, type_ in enumerate(types):
            text = str(type_)
            if "token" in text:
                raise ExecutableError(
                    f"{kind} {i} of main is a token: the module has ordered side effects, which only jax.jit "
                    "can run; remove them (ordered=False) or call the function through jax.jit"
                )
            if not text.startswith("tensor<"):
                raise ExecutableError(f"{kind} {i} of main is {text}, which is no array; pass tensors only")
            if not type_.has_static_shape:
                raise ExecutableError(
                    f"{kind} {i} of main is {text}, a shape known only when called; "
                    "trace the function again with concrete shapes"
                )


def _prepare_custom_calls(module: Module) -> None:
    """Make what the module calls ready, and refuse calls of which only half is in the module."""
    names = set(_custom_call_targets(module.operation))
    for name in sorted(names):
        if "python" in name and "callback" in name:
            raise ExecutableError(
                f"the module calls back into Python (custom_call @{name}), and the function is not part of "
                "it; remove jax.debug.print, pure_callback or io_callback, or go through jax.jit"
            )
    if any(name.startswith("lapack_") for name in names):
        # Private: JAX does this when it lowers a linear algebra primitive; without it the call crashes.
        lapack._lapack.initialize()
    if any(name.startswith("zenith_") for name in names):
        from zenith_mlir.kernels.cpu import register

        register()


def _custom_call_targets(op: Any) -> Iterator[str]:
    if op.name == "stablehlo.custom_call":
        yield op.attributes["call_target_name"].value
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _custom_call_targets(inner.operation)


def _client(platform: str | None) -> Any:
    """JAX's client for a platform; None: JAX's default."""
    if platform == "none":
        raise ExecutableError("the target none describes no machine; compile for cpu or cuda")
    try:
        return get_backend(platform)
    except RuntimeError as error:
        raise ExecutableError(
            f"JAX has no {platform} device here; compile for one of: {_platforms()} ({error})"
        ) from error


def _platforms() -> str:
    # The default backend and the CPU, which is always there.
    return ", ".join(sorted({jax.default_backend(), "cpu"}))


def _shown(shape: Any, dtype: Any) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"
