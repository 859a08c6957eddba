"""Classes of operations, and what zenith ops want of their operands and make of their results."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlib.mlir import ir

from zenith_mlir.dialects.attributes import from_attribute
from zenith_mlir.dialects.table import OPS
from zenith_mlir.ir.composites import composite_attributes, composite_name
from zenith_mlir.ir.facts import shape
from zenith_mlir.ir.float64 import PLACEMENT_CALLS


class Kind(enum.Enum):
    """What becomes of an operation.

    ALLOW: operands of 16 bits, the result in float32. INFER: 16 bits between allowed operations. CLEAR: what its
    neighbours are. DENY: float32. KEEP: float32, and of no consequence for what surrounds it.
    """

    ALLOW = "allow"
    INFER = "infer"
    CLEAR = "clear"
    DENY = "deny"
    KEEP = "keep"


class Port(enum.Enum):
    """How an operand is wanted, or a result given.

    TIED: as the node is coloured. LOW: in 16 bits. FULL: as it was. FOLLOW: as it comes. SOFT: in 16 bits where it is
    made behind products and not of denied operations. AUTO: in 16 bits on the way to a product, or if all want it so.
    LIKE_FIRST: as AUTO, if the first operand is.
    """

    TIED = "tied"
    LOW = "low"
    FULL = "full"
    FOLLOW = "follow"
    SOFT = "soft"
    AUTO = "auto"
    LIKE_FIRST = "like first"


def _named(kind: Kind, *names: str) -> dict[str, Kind]:
    return {name if "." in name else f"stablehlo.{name}": kind for name in names}


PRODUCTS = frozenset(["stablehlo.dot_general", "stablehlo.dot", "stablehlo.convolution"])

# What is in no row is denied.
CLASSES: dict[str, Kind] = {
    **dict.fromkeys(PRODUCTS, Kind.ALLOW),
    **_named(
        Kind.INFER, "add", "subtract", "multiply", "divide", "negate", "abs", "tanh", "logistic", "remainder",
        "chlo.square", "chlo.erf", "chlo.erfc",
    ),
    **_named(
        Kind.CLEAR, "reshape", "transpose", "broadcast_in_dim", "broadcast", "dynamic_broadcast_in_dim", "slice",
        "dynamic_slice", "dynamic_update_slice", "gather", "concatenate", "select", "maximum", "minimum", "clamp",
        "pad", "reverse", "compare", "is_finite", "sign", "optimization_barrier", "all_gather", "all_to_all",
        "collective_permute", "collective_broadcast", "sdy.sharding_constraint", "sdy.reshard", "chlo.is_inf",
    ),
    **_named(Kind.KEEP, "iota", "sort", "all_reduce", "reduce_scatter", "floor", "ceil"),
    **_named(Kind.KEEP, "round_nearest_even", "round_nearest_afz", "bitcast_convert", "constant", "chlo.constant"),
}  # fmt: skip

# Denied as long as nobody asks for them in 16 bits.
_ELEMENTWISE = frozenset(
    f"stablehlo.{name}"
    for name in (
        "exponential", "exponential_minus_one", "log", "log_plus_one", "power", "sqrt", "rsqrt", "cbrt", "sine",
        "cosine", "tan", "atan2", "floor", "ceil", "round_nearest_even", "round_nearest_afz",
    )
)  # fmt: skip

# Reductions whose body is one of these choose among their elements.
CHOICES = frozenset(["stablehlo.maximum", "stablehlo.minimum"])

# Where a rounded operand does not round the result, but multiplies it: exp(x + d) = exp(x) (1 + d).
_STABLEHLO = ("exponential", "exponential_minus_one", "log", "log_plus_one", "power")
_ZENITH = ("softmax", "log_softmax", "cross_entropy", "cross_entropy_vjp")
EXPONENTIALS = frozenset([*(f"stablehlo.{name}" for name in _STABLEHLO), *(f"zenith.{name}" for name in _ZENITH)])
# Whose operands are positions times frequencies.
ANGLES = frozenset(["stablehlo.sine", "stablehlo.cosine", "stablehlo.tan"])
# Operations that give fewer elements than they are given: cast behind them, what they are given stays as it is.
NARROWING = frozenset(["stablehlo.gather", "stablehlo.slice", "stablehlo.dynamic_slice", "stablehlo.reduce"])

Ports = tuple[Kind, Sequence[Port], Sequence[Port]]


@dataclass(frozen=True)
class _Roles:
    """Ports by the names that a spec gives operands and results; `rest` are those not named."""

    kind: Kind
    operands: Mapping[str, Port]
    results: Mapping[str, Port]

    def __call__(self, spec: Any, composite: ir.Operation) -> Ports:
        ins = [self.operands.get(name, Port.FOLLOW) for name in spec.operand_names]
        return self.kind, ins, [self.results.get(name, Port.FULL) for name in spec.result_names]


def _attention(spec: Any, composite: ir.Operation) -> Ports:
    ins = [Port.FOLLOW] * len(composite.operands)
    for source in spec.sources[:3]:
        ins[source] = Port.LOW
    return Kind.ALLOW, ins, [Port.AUTO, Port.FULL, Port.FULL][: len(composite.results)]


def _attention_vjp(spec: Any, composite: ir.Operation) -> Ports:
    ins = [Port.FOLLOW] * len(composite.operands)
    for source in spec.attention.sources[:3]:
        ins[source] = Port.LOW
    if spec.residuals:
        ins[-4:-1] = [Port.LOW, Port.FULL, Port.FULL]
    ins[-1] = Port.LOW
    return Kind.ALLOW, ins, [Port.AUTO if g.role < 3 else Port.FULL for g in spec.gradients]


def _matmul(spec: Any, composite: ir.Operation) -> Ports:
    ins = [Port.FOLLOW] * len(composite.operands)
    for source in spec.sources[:2]:
        ins[source] = Port.LOW
    return Kind.ALLOW, ins, [Port.AUTO]


def _elementwise(spec: Any, composite: ir.Operation) -> Ports:
    """Vectors, the biases, stay what they are."""
    rank = len(shape(composite.results[0]))
    ins = [Port.TIED if len(shape(value)) >= rank else Port.FOLLOW for value in composite.operands]
    return Kind.INFER, ins, [Port.TIED] * len(composite.results)


def _rotary(spec: Any, composite: ir.Operation) -> Ports:
    return Kind.INFER, [Port.TIED, Port.FOLLOW, Port.FOLLOW], [Port.TIED]


def _denied(spec: Any, composite: ir.Operation) -> Ports:
    return Kind.DENY, [Port.FOLLOW] * len(composite.operands), [Port.AUTO]


def _group_norm(spec: Any, composite: ir.Operation) -> Ports:
    return Kind.INFER, [Port.SOFT] + [Port.FOLLOW] * (len(composite.operands) - 1), [Port.AUTO]


# Statistics of norms are float32 inside, whatever comes and goes.
_NORM = _Roles(Kind.INFER, {"x": Port.SOFT, "residual": Port.SOFT}, {"out": Port.AUTO, "sum": Port.AUTO})
_NORM_VJP = _Roles(Kind.INFER, dict.fromkeys(("s", "cotangent", "sum_cotangent"), Port.SOFT), {"dx": Port.AUTO})
# What there is for each row is float32.
_OF_ROWS = dict.fromkeys(("cotangent", "lse_cotangent", "maximum", "sum"), Port.FULL)

COMPOSITES: dict[str, Callable[[Any, ir.Operation], Ports]] = {
    "zenith.attention": _attention,
    "zenith.attention_vjp": _attention_vjp,
    "zenith.matmul": _matmul,
    "zenith.layer_norm": _NORM,
    "zenith.rms_norm": _NORM,
    "zenith.layer_norm_vjp": _NORM_VJP,
    "zenith.rms_norm_vjp": _NORM_VJP,
    "zenith.group_norm": _group_norm,
    **dict.fromkeys(["zenith.gelu", "zenith.silu", "zenith.swiglu"], _elementwise),
    **dict.fromkeys(["zenith.gelu_vjp", "zenith.silu_vjp", "zenith.swiglu_vjp"], _elementwise),
    **dict.fromkeys(["zenith.rotary", "zenith.rotary_vjp"], _rotary),
    **dict.fromkeys(["zenith.softmax", "zenith.softmax_vjp", "zenith.log_softmax", "zenith.log_softmax_vjp"], _denied),
    "zenith.cross_entropy": _Roles(Kind.DENY, _OF_ROWS, {}),
    "zenith.cross_entropy_vjp": _Roles(Kind.DENY, _OF_ROWS, {"dlogits": Port.LIKE_FIRST}),
}


def name_of(op: ir.Operation) -> str:
    """The name by which the class of `op` is looked up: that of the composite if it is one."""
    return composite_name(op) if op.name == "stablehlo.composite" else op.name


def ports_of(op: ir.Operation, kind: Kind | None = None) -> Ports:
    """The class of `op`, and the ports of its operands and results; `kind` is the class that it is put into."""
    name = name_of(op)
    if name in COMPOSITES and name in OPS and kind != Kind.DENY:
        return COMPOSITES[name](_spec(op), op)
    found = kind or class_of(op)
    if found == Kind.ALLOW and op.name not in PRODUCTS:
        found = Kind.INFER  # the user allows it: cast wherever it stands
    port = Port.TIED if found in (Kind.INFER, Kind.CLEAR) else Port.FULL
    ins = [Port.LOW if found == Kind.ALLOW else port] * len(op.operands)
    return found, ins, [port] * len(op.results)


def class_of(op: ir.Operation) -> Kind:
    """The class of `op` by its name and, of a reduction, its body."""
    if op.name in ("stablehlo.reduce", "stablehlo.reduce_window"):
        return Kind.CLEAR if chooses(op) else Kind.DENY
    if op.name == "stablehlo.custom_call":
        is_placement = ir.StringAttr(op.attributes["call_target_name"]).value in PLACEMENT_CALLS
        return Kind.CLEAR if is_placement else Kind.DENY
    return CLASSES.get(name_of(op), Kind.DENY)


def can_be(op: ir.Operation, kind: Kind) -> bool:
    """Whether a user may put `op` into the class `kind`. 16 bits are for what has a narrow form."""
    own = class_of(op) if name_of(op) not in COMPOSITES else ports_of(op)[0]
    narrow = own in (Kind.ALLOW, Kind.INFER, Kind.CLEAR) or op.name in _ELEMENTWISE
    return kind == Kind.DENY or (narrow if kind == Kind.ALLOW else narrow and own != Kind.ALLOW)


def chooses(op: ir.Operation) -> bool:
    """Whether a reduction takes the largest or smallest of its elements."""
    names = [inner.operation.name for inner in op.regions[0].blocks[0].operations]
    return len(names) == 2 and names[0] in CHOICES


def _spec(composite: ir.Operation) -> Any:
    return OPS[composite_name(composite)].read(from_attribute(composite_attributes(composite)))
