"""cast-precision: what is cast, what stays, and that programs stay the programs they are."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zenith_mlir as zenith
from zenith_mlir.errors import OptionError
from zenith_mlir.ir.facts import element_type, walk_named
from zenith_mlir.ir.float64 import to_float64
from zenith_mlir.ir.loops import Loop
from zenith_mlir.precision.cast.check import violations


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def cast(fn, *args, options="", before="prepare"):
    """The module of `fn` after `before` and cast-precision, held to what holds of every program."""
    module = zenith.trace(fn, *args).run(before)
    result = module.run(f"cast-precision{options}")
    assert result.operation.verify()
    assert result.input_specs == module.input_specs
    assert result_types(result) == result_types(module)
    assert violations(result.operation) == []
    assert result.run(f"cast-precision{options}").text() == result.text()
    return result


def result_types(module):
    (main,) = [op for op in walk_named(module.operation, "func.func") if op.attributes["sym_name"].value == "main"]
    return [str(value.type) for value in list(main.regions[0].blocks[0].operations)[-1].operation.operands]


def types(module, name):
    """How often operations called `name` have which element type of their results."""
    return Counter(str(element_type(op.results[0])) for op in walk_named(module.operation, name))


def remarks(module, kind):
    return [remark for remark in module.remarks if remark.kind == kind and remark.pass_name == "cast-precision"]


def mlp(params, x):
    for w, b in params:
        x = jnp.tanh(x @ w + b)
    return x


def mlp_params(depth=3):
    return [(struct(16, 16), struct(16))] * depth


def test_between_products_in_16_bits_and_float32_behind_the_last():
    module = cast(mlp, mlp_params(), struct(8, 16))
    assert types(module, "stablehlo.dot_general") == {"f32": 3}
    assert [str(element_type(op.operands[0])) for op in walk_named(module.operation, "stablehlo.dot_general")] == [
        "bf16"
    ] * 3
    assert types(module, "stablehlo.tanh") == {"bf16": 2, "f32": 1}


def test_conservative_casts_products_alone():
    module = cast(mlp, mlp_params(), struct(8, 16), options="{policy=conservative}")
    assert types(module, "stablehlo.tanh") == {"f32": 3}


def test_weights_are_converted_once():
    def fn(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w) @ w

    module = cast(fn, struct(16, 16), struct(8, 16))
    main = walk_named(module.operation, "func.func")[-1]
    (weight,) = [a for a in main.regions[0].blocks[0].arguments if "16x16" in str(a.type)]
    assert [use.owner.operation.name for use in weight.uses] == ["stablehlo.convert"]


def test_softmax_is_float32_and_is_cast_for_the_product_behind():
    def fn(q, k, v):
        return jax.nn.softmax(q @ k.T * 0.25) @ v

    module = cast(fn, struct(8, 16), struct(8, 16), struct(8, 16))
    assert types(module, "stablehlo.exponential") == {"f32": 1}
    # The scale of the logits meets no product but through the exponential.
    assert types(module, "stablehlo.multiply") == {"f32": 1}
    assert types(module, "stablehlo.divide") == {"f32": 1}


def test_logits_stay_float32_where_the_backward_reads_what_they_are_made_of():
    def loss(w, x, y):
        logits = 30 * jnp.tanh(x @ w / 30)
        return -jnp.mean(jax.nn.log_softmax(logits) * y)

    module = cast(jax.grad(loss), struct(16, 8), struct(4, 16), struct(4, 8))
    assert types(module, "stablehlo.tanh") == {"f32": 1}


def sgd_step(params, x, y):
    def loss(params):
        return jnp.mean((mlp(params, x) - y) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def test_updates_of_parameters_take_gradients_as_they_are_summed():
    module = cast(sgd_step, mlp_params(), struct(8, 16), struct(8, 16))
    updates = [op for op in walk_named(module.operation, "stablehlo.subtract") if "16x16" in str(op.results[0].type)]
    assert len(updates) == 3 and all(str(element_type(op.results[0])) == "f32" for op in updates)
    assert narrow_behind(updates) == 0


def narrow_behind(ops):
    """How many 16-bit values lie between `ops` and the products or arguments that they are made of."""
    found, stack = 0, [value for op in ops for value in op.operands]
    while stack:
        op = stack.pop().owner
        if hasattr(op, "operation") and op.operation.name != "stablehlo.dot_general":
            found += any("bf16" in str(value.type) for value in op.operation.results)
            stack += list(op.operation.operands)
    return found


def test_unrolled_steps_keep_parameters_in_float32():
    def steps(params, x, y):
        for _ in range(2):
            params, _ = sgd_step(params, x, y)
        return params

    module = cast(steps, mlp_params(2), struct(8, 16), struct(8, 16))
    updates = [op for op in walk_named(module.operation, "stablehlo.subtract") if "16x16" in str(op.results[0].type)]
    assert len([op for op in updates if str(element_type(op.results[0])) == "f32"]) >= 4
    main_results = [value for op in updates for value in op.results if "f32" in str(value.type)]
    assert narrow_behind([value.owner.operation for value in main_results]) == 0


def test_a_scan_over_steps_carries_parameters_in_float32():
    def steps(params, xs, ys):
        return jax.lax.scan(lambda p, xy: sgd_step(p, *xy), params, (xs, ys))

    module = cast(steps, mlp_params(2), struct(5, 8, 16), struct(5, 8, 16))
    (loop,) = walk_named(module.operation, "stablehlo.while")
    assert not any("bf16" in str(value.type) for value in loop.results)
    assert "bf16" in module.text()
    assert any("starts as an argument" in remark.reason for remark in remarks(module, "analysis"))


def layers(stack, x):
    def layer(x, w):
        return x + jnp.tanh(x @ w), None

    return jax.lax.scan(layer, x, stack)[0]


def train_layers(stack, embedding, x, y):
    return jax.grad(lambda stack: jnp.mean((layers(stack, x @ embedding) - y) ** 2))(stack)


def test_a_scan_over_layers_carries_and_stacks_16_bits():
    module = cast(train_layers, struct(4, 16, 16), struct(8, 16), struct(32, 8), struct(32, 16))
    forward, backward = [Loop(op) for op in walk_named(module.operation, "stablehlo.while")]
    stream = [str(v.type) for v in forward.op.results if "32x16" in str(v.type)]
    assert stream == ["tensor<32x16xbf16>"] + ["tensor<4x32x16xbf16>"] * (len(stream) - 1) and len(stream) > 1
    assert "tensor<4x16x16xf32>" in [str(v.type) for v in backward.op.results]  # the gradients, summed in float32


def test_sums_over_a_loop_stay_float32():
    def fn(w, xs):
        def add(total, x):
            return total + jnp.tanh(x @ w) @ w, None

        total, _ = jax.lax.scan(add, jnp.zeros((8, 16)), xs)
        return jnp.tanh(total @ w) @ w

    module = cast(fn, struct(16, 16), struct(5, 8, 16))
    (loop,) = walk_named(module.operation, "stablehlo.while")
    assert "tensor<8x16xf32>" in [str(v.type) for v in loop.results]
    assert any("sum that grows" in remark.reason for remark in remarks(module, "analysis"))


def test_a_branch_gives_one_type():
    def fn(flag, w, x):
        x = jax.lax.cond(flag, lambda x: x @ w, lambda x: jnp.tanh(x @ w), x @ w)
        return x @ w

    module = cast(fn, jax.ShapeDtypeStruct((), jnp.bool_), struct(16, 16), struct(8, 16))
    (branch,) = walk_named(module.operation, "stablehlo.case")
    assert str(branch.results[0].type) == "tensor<8x16xbf16>"


def test_calls_that_stay_pass_16_bits():
    def fn(w, x):
        inner = jax.jit(jnp.tanh)
        return inner(inner(x @ w) @ w) @ w

    module = cast(fn, struct(16, 16), struct(8, 16), before="")
    (callee,) = [op for op in walk_named(module.operation, "func.func") if op.attributes["sym_name"].value != "main"]
    assert "bf16" in str(callee.attributes["function_type"]) and "f32" not in str(callee.attributes["function_type"])


def test_a_barrier_passes_16_bits():
    def fn(w, x):
        return jax.lax.optimization_barrier(jnp.tanh(x @ w)) @ w

    module = cast(fn, struct(16, 16), struct(8, 16))
    assert types(module, "stablehlo.optimization_barrier") == {"bf16": 1}


def test_convolutions():
    def fn(x, k):
        y = jax.nn.relu(jax.lax.conv(x, k, (1, 1), "SAME"))
        return jax.lax.conv(y, k, (1, 1), "SAME")

    module = cast(fn, struct(2, 4, 8, 8), struct(4, 4, 3, 3))
    assert types(module, "stablehlo.convolution") == {"f32": 2}
    assert types(module, "stablehlo.maximum") == {"bf16": 1}


def test_pooling_chooses_in_16_bits():
    def fn(x, k):
        y = jax.lax.conv(x, k, (1, 1), "SAME")
        y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return jax.lax.conv(y, k, (1, 1), "SAME")

    assert types(cast(fn, struct(2, 4, 8, 8), struct(4, 4, 3, 3)), "stablehlo.reduce_window") == {"bf16": 1}


def test_angles_stay_float32():
    def fn(positions, frequencies, x, w):
        angles = positions[:, None] @ frequencies[None]
        return (x * jnp.cos(angles)) @ w

    module = cast(fn, struct(8), struct(16), struct(8, 16), struct(16, 16))
    (refusal,) = remarks(module, "missed")
    assert "angle" in refusal.reason and refusal.op == "stablehlo.dot_general"


@pytest.mark.parametrize(("options", "narrow"), [("", 0), ("{policy=aggressive}", 1), ("{allow=dot_general}", 1)])
def test_highest_precision_is_the_programs_own_wish(options, narrow):
    def fn(x, w):
        return jnp.dot(x, w, precision="highest")

    module = cast(fn, struct(8, 16), struct(16, 16), options=options)
    assert len(remarks(module, "passed")) == narrow and len(remarks(module, "missed")) == 1 - narrow


@pytest.mark.parametrize("fill", [-3.4028235e38, -1e30])
@pytest.mark.parametrize("compute", ["bf16", "f16"])
def test_fills_beyond_the_range_make_no_nan(fill, compute):
    def fn(q, k, v, mask):
        logits = jnp.where(mask, q @ k.T, fill)
        # Between two products, where it would be cast if it were any other number.
        return jax.nn.softmax(logits + 0.5) @ v + jnp.tanh(logits) @ v

    shapes = [struct(8, 8)] * 3 + [jax.ShapeDtypeStruct((8, 8), jnp.bool_)]
    module = cast(fn, *shapes, options=f"{{compute={compute}}}")
    beyond = compute == "f16" or fill < -1e38
    assert types(module, "stablehlo.select") == {"f32" if beyond else "bf16": 1}
    arrays = [np.random.default_rng(i).normal(size=(8, 8)).astype(np.float32) for i in range(3)]
    mask = np.tril(np.ones((8, 8), bool), -1)  # the first row is masked as a whole
    (result,) = module.compile("cpu")(*arrays, mask)
    assert np.isfinite(result).all()


def test_epsilons_that_vanish_in_float16_stay():
    def fn(x, w):
        y = x @ w
        return (y / (jnp.abs(y) + 1e-12)) @ w

    module = cast(fn, struct(8, 16), struct(16, 16), options="{compute=f16}")
    (add,) = walk_named(module.operation, "stablehlo.add")
    assert str(element_type(add.results[0])) == "f32"


def test_what_the_user_denies_and_allows():
    def fn(w, x):
        y = jnp.tanh(x @ w)
        return jnp.exp(y @ w) @ w

    shapes = struct(16, 16), struct(8, 16)
    assert types(cast(fn, *shapes), "stablehlo.tanh") == {"bf16": 1}
    denied = cast(fn, *shapes, options="{deny=tanh}")
    assert types(denied, "stablehlo.tanh") == {"f32": 1}
    allowed = zenith.trace(fn, *shapes).run("prepare,cast-precision{policy=default,allow:stablehlo.exponential}")
    assert types(allowed, "stablehlo.exponential") == {"bf16": 1}
    by_place = cast(fn, *shapes, options='{deny="test_cast_precision.py:*"}')
    assert "bf16" not in by_place.text()
    assert len(remarks(by_place, "missed")) == 3


def test_patterns_that_match_nothing_and_cannot_be():
    module = zenith.trace(mlp, mlp_params(1), struct(8, 16)).run(
        "prepare,cast-precision{deny=nothing policy=infer:dot_general}"
    )
    reasons = [remark.reason for remark in remarks(module, "missed")]
    assert "no operation matches the pattern deny:nothing" in reasons
    assert any("cannot be of the class" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{compute=bf17}", "expected bf16"),
        ("{compute=f32}", "expected bf16"),
        ("{policy=defalt}", "did you mean default"),
        ("{policy=denny:tanh}", "did you mean deny"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with pytest.raises(OptionError, match=message):
        zenith.trace(mlp, mlp_params(1), struct(8, 16)).run(f"cast-precision{options}")


def test_other_types_are_untouched():
    def fn(a, b, n):
        return a @ a, (b @ b).astype(jnp.float16), n + 1

    half, wide = jax.ShapeDtypeStruct((4, 4), jnp.float16), jax.ShapeDtypeStruct((4, 4), jnp.int32)
    module = zenith.trace(fn, half, half, wide).run("prepare")
    assert module.run("cast-precision").text() == module.text()


def test_roundings_of_the_program_stay():
    def fn(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32) * 2

    module = cast(fn, struct(8, 16))
    assert len(walk_named(module.operation, "stablehlo.convert")) == 2


def block(params, x):
    """A transformer block of one head, with a norm, attention and a gate."""
    wq, wk, wv, wo, up, down, scale = params

    def norm(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale

    h = norm(x)
    logits = (h @ wq) @ (h @ wk).swapaxes(-1, -2) / 4
    x = x + jax.nn.softmax(logits) @ (h @ wv) @ wo
    return x + jax.nn.gelu(norm(x) @ up) @ down


def loss_of(params, tokens, labels):
    embedding, *blocks = params
    x = embedding[tokens]
    for each in blocks:
        x = block(each, x)
    logits = x @ embedding.T
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
    return -picked.mean()


def language_model():
    of_block = [struct(16, 16)] * 4 + [struct(16, 64), struct(64, 16), struct(16)]
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    return jax.value_and_grad(loss_of), ([struct(64, 16), of_block, of_block], tokens, tokens)


def inputs_of(module):
    """Small numbers, and tokens that there are."""
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 64, spec.shape).astype(spec.dtype)
        if spec.dtype.kind == "i"
        else (0.3 * generator.normal(size=spec.shape)).astype(spec.dtype)
        for spec in module.input_specs
    ]


@pytest.mark.parametrize("before", ["prepare", "raise"])
def test_a_language_model_against_float64(before):
    fn, args = language_model()
    module = cast(fn, *args, before=before)
    original = zenith.trace(fn, *args)
    arrays = inputs_of(module)
    wide = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays]
    exact = [np.asarray(x) for x in to_float64(original).compile("cpu")(*wide)]
    ours = [np.asarray(x, np.float64) for x in module.run("expand-composites").compile("cpu")(*arrays)]
    assert abs(ours[0] - exact[0]) < 2e-3 * abs(exact[0])
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours[1:], exact[1:], strict=True)]
    assert max(errors) < 0.05 and min(errors) > 1e-6  # bfloat16, and not float32


def test_composites_look_like_those_of_a_bfloat16_program():
    fn, args = language_model()
    module = cast(fn, *args, before="raise")
    composites = walk_named(module.operation, "stablehlo.composite")
    found = {}
    for op in composites:
        found.setdefault(op.attributes["name"].value, op)
    assert {"zenith.attention", "zenith.attention_vjp", "zenith.gelu", "zenith.layer_norm"} <= set(found)
    attention = found["zenith.attention"]
    assert {str(element_type(value)) for value in attention.operands} == {"bf16"}
    assert str(element_type(attention.results[0])) == "bf16"
    assert {str(element_type(value)) for value in list(attention.results)[1:]} == {"f32"}
    assert {str(element_type(value)) for value in found["zenith.attention_vjp"].results} == {"bf16"}
    gelu = found["zenith.gelu"]
    assert {str(element_type(value)) for value in (*gelu.operands, *gelu.results)} == {"bf16"}
    norms = [op for op in composites if op.attributes["name"].value == "zenith.layer_norm"]
    assert all(str(element_type(op.results[0])) == "bf16" for op in norms)


def test_kernels_take_what_is_cast():
    fn, args = language_model()
    module = zenith.trace(fn, *args).run("raise,cast-precision,raise-matmul,lower-kernels{cost-model=false}")
    chosen = {r.args["implementation"] for r in module.remarks if r.pass_name == "lower-kernels" and r.kind == "passed"}
    assert {"cpu-flash", "cpu-flash-vjp", "cpu-matmul", "cpu-norm", "cpu-activation"} <= chosen
    assert not walk_named(module.operation, "stablehlo.dot_general")


def test_residuals_live_in_16_bits():
    fn, args = language_model()
    module = cast(fn, *args, before="raise")
    gradients = [
        op for op in walk_named(module.operation, "stablehlo.composite") if "_vjp" in op.attributes["name"].value
    ]
    read = Counter(str(value.type) for op in gradients for value in op.operands if "2x32x" in str(value.type))
    # All but the rows of the embedding, the labels, and what attention keeps of a row.
    assert read["tensor<2x32x16xf32>"] == 1 and read["tensor<2x32x64xf32>"] == 0 and read["tensor<2x32x16xbf16>"] > 10


def test_collectives_have_one_type_on_all_devices():
    """Sums over devices are float32, what only moves between them is as its neighbours are."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
    spec = jax.sharding.PartitionSpec()

    def parallel(x, up, down):
        hidden = jnp.tanh(x @ up)
        total = jax.lax.psum(hidden @ down, "d")
        moved = jax.lax.ppermute(total, "d", [(0, 0)])
        return moved @ up, jax.lax.all_gather(hidden, "d", axis=1, tiled=True) @ down

    fn = jax.shard_map(parallel, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    module = cast(fn, struct(4, 8), struct(8, 16), struct(16, 8))
    assert types(module, "stablehlo.all_reduce") == {"f32": 1}
    assert types(module, "stablehlo.collective_permute") == {"bf16": 1}
    assert types(module, "stablehlo.all_gather") == {"bf16": 1}


def test_a_module_without_functions_stays_one():
    module = zenith.load("module {}").run("cast-precision{deny=dot_general}")
    assert module.text() == zenith.load("module {}").text()
    assert [r.reason for r in module.remarks] == ["no operation matches the pattern deny:dot_general"]
