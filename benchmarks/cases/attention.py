"""softmax(q kᵀ / √d) v, forward, with gradients, and of single query rows."""

from __future__ import annotations

from typing import Any

from cases.case import Case, Family, Input, Program

_DTYPES = ("float32", "bfloat16")
_LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def _forward_cases() -> list[Case]:
    return [
        Case.of("attention", dtype, variant, B=1, H=12, S=seq, D=depth)
        for dtype in _DTYPES
        for depth in (64, 128)
        for variant in ("", "causal")
        for seq in _LENGTHS
    ]


def _gradient_cases() -> list[Case]:
    return [
        Case.of("attention+gradients", dtype, variant, B=1, H=12, S=seq, D=depth)
        for dtype in _DTYPES
        for depth in (64, 128)
        for variant in ("", "causal")
        for seq in _LENGTHS[:-1]
    ]


def _small_cases() -> list[Case]:
    return [
        Case.of("attention, short", dtype, variant, B=batch, H=heads, S=seq, D=64)
        for dtype in _DTYPES
        for variant in ("", "causal")
        for batch, heads in ((1, 4), (8, 12))
        for seq in (4, 8, 16, 32, 64)
    ]


def _decode_cases() -> list[Case]:
    return [
        Case.of("attention, decode", dtype, layout, B=batch, H=heads, G=groups, S=seq, D=128)
        for dtype in _DTYPES
        for layout in ("bhsd", "bshd")
        for batch, heads, groups in ((1, 12, 1), (4, 8, 4))
        for seq in (256, 2048, 8192)
    ]


def _square(case: Case) -> tuple[int, ...]:
    return case["B"], case["H"], case["S"], case["D"]


def _forward(case: Case) -> Program:
    import jax
    import jax.numpy as jnp

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        x = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32) * case["D"] ** -0.5
        if case.variant == "causal":
            x = jnp.where(jnp.tril(jnp.ones(x.shape[-2:], bool)), x, jnp.finfo(jnp.float32).min)
        return jnp.einsum("bhts,bhse->bhte", jax.nn.softmax(x).astype(v.dtype), v)

    return attention


def _gradients(case: Case) -> Program:
    import jax

    forward = _forward(case)

    def step(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> Any:
        out, pullback = jax.vjp(forward, q, k, v)
        return out, pullback(cotangent)

    return step


def _decode(case: Case) -> Program:
    import jax
    import jax.numpy as jnp

    keys = case.variant  # the layout of the cache

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        x = jnp.einsum(f"bhgd,{keys}->bhgs", q, k, preferred_element_type=jnp.float32) * case["D"] ** -0.5
        return jnp.einsum(f"bhgs,{keys}->bhgd", jax.nn.softmax(x).astype(v.dtype), v)

    return attention


def through_the_passes(program: Any) -> Any:
    """As users get it, with the cost model's choice."""

    def fused(case: Case) -> Program:
        import zenith_mlir as zenith

        return zenith.jit(program(case), pipeline="default", strict=True)

    return fused


def _weighed(program: Any, inputs: Any) -> Any:
    """The one attention that the cost model is asked about: the gradients' where there are some."""

    def request(case: Case) -> tuple[str, Any]:
        import zenith_mlir as zenith
        from zenith_mlir.ir.composites import zenith_composites
        from zenith_mlir.passes.lower_kernels import request_of
        from zenith_mlir.target import Target

        module = zenith.trace(program(case), *(each.spec(case) for each in inputs(case)))
        module = module.run("prepare,raise-attention", target="cpu")
        with module.context:
            op, asked = request_of(zenith_composites(module.operation)[-1], Target.parse("cpu"))
        return op.name, asked

    return request


def _torch(case: Case) -> Program:
    import torch

    causal = case.variant == "causal"
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _torch_gradients(case: Case) -> Program:
    import torch

    forward = _torch(case)

    def step(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = forward(*leaves)
        return out, torch.autograd.grad(out, leaves, cotangent)

    return step


def _torch_decode(case: Case) -> Program:
    import torch

    def attention(q: Any, k: Any, v: Any) -> Any:
        if case.variant == "bshd":
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        query = q.reshape(case["B"], case["H"] * case["G"], 1, case["D"])
        return torch.nn.functional.scaled_dot_product_attention(query, k, v, enable_gqa=case["G"] > 1)

    return attention


def _onnx(case: Case) -> Any:
    from onnx import TensorProto, helper

    if case.dtype != "float32":
        return None
    shape = list(_square(case))
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("q", "k", "v", "out")}
    node = helper.make_node("Attention", ["q", "k", "v"], ["out"], is_causal=int(case.variant == "causal"))
    graph = helper.make_graph([node], "attention", [values[name] for name in "qkv"], [values["out"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _flops(products: int) -> Any:
    def count(case: Case) -> float:
        pairs = case["S"] * (case["S"] + 1) / 2 if case.variant == "causal" else case["S"] ** 2
        return 2.0 * products * case["B"] * case["H"] * pairs * case["D"]

    return count


def _item(case: Case) -> int:
    return 4 if case.dtype == "float32" else 2


def _keys(case: Case) -> Input:
    extents = {"b": case["B"], "h": case["H"], "s": case["S"], "d": case["D"]}
    return Input(tuple(extents[axis] for axis in case.variant))


def _family(name: str, cases: list[Case], inputs: Any, program: Any, torch: Any, **rest: Any) -> Family:
    fused, request = through_the_passes(program), _weighed(program, inputs)
    return Family(name, cases, inputs, program, fused, torch, request=request, **rest)


def _queries_keys_values(case: Case) -> list[Input]:
    return [Input(_square(case))] * 3


def _with_cotangent(case: Case) -> list[Input]:
    return [Input(_square(case))] * 4


def _query_and_cache(case: Case) -> list[Input]:
    return [Input((case["B"], case["H"], case["G"], case["D"])), _keys(case), _keys(case)]


def _cache_bytes(case: Case) -> float:
    return 2.0 * _item(case) * case["B"] * case["H"] * case["S"] * case["D"]


FAMILIES = [
    _family("attention", _forward_cases(), _queries_keys_values, _forward, _torch, onnx=_onnx, flops=_flops(2)),
    _family("attention+gradients", _gradient_cases(), _with_cotangent, _gradients, _torch_gradients, flops=_flops(7)),
    _family("attention, short", _small_cases(), _queries_keys_values, _forward, _torch, flops=_flops(2)),
    _family("attention, decode", _decode_cases(), _query_and_cache, _decode, _torch_decode, bytes=_cache_bytes),
]
