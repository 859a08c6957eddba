"""zenith.attention as Attention-23, where it means the same.

The operator gives 0 for a row that is hidden as a whole, where programs give the mean of the values, or NaN for a fill
of -inf. So a mask is a boolean one where every row is known to see something, or where the program itself replaces the
weights of such rows by 0; else, for a finite fill, a number so low that a logit is lost in it, which is added and
leaves such rows their mean. Biases that the graph computes may hide rows too: they are no operand of the operator.

What is hidden is added to, not replaced: a hidden logit that is NaN or overflows to +inf makes its row NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as oir

from zenith_mlir.dialects.attention import AttentionSpec, Step
from zenith_mlir.dialects.labelled import plain
from zenith_mlir.onnx.arrange import stored_view
from zenith_mlir.onnx.convert import Walk
from zenith_mlir.onnx.fused.layouts import arranged, is_moved, laid_out
from zenith_mlir.onnx.fused.logits import Logits, hides
from zenith_mlir.onnx.view import View

__all__ = ["operator_form"]

_D = oir.DataType
# Lower, and it is for onnxruntime what is no part of a row.
_LOW = -1e38


@dataclass(frozen=True)
class _Heads:
    """What the operator calls batch and heads; `flat` operands are [batch, t, heads * d], others
    [batch, heads, t, d].
    """

    batch: tuple[str, ...]
    shared: tuple[str, ...]
    alone: tuple[str, ...]
    flat: bool

    def groups(self, heads: Sequence[str], rows: Sequence[str], features: Sequence[str]) -> list[list[str]]:
        if self.flat:
            return [list(self.batch), list(rows), [*heads, *features]]
        return [list(self.batch), list(heads), list(rows), list(features)]

    def query(self, spec: AttentionSpec, features: Sequence[str]) -> list[list[str]]:
        return self.groups([*self.shared, *self.alone], _axis(spec, "t"), features)

    def key(self, spec: AttentionSpec, features: Sequence[str]) -> list[list[str]]:
        return self.groups(self.shared, ["s"], features)


@dataclass(frozen=True)
class _Mask:
    """The operand attn_mask, or the attribute; none of them where all is seen."""

    value: oir.Value | None = None
    is_causal: bool = False


def operator_form(walk: Walk, spec: AttentionSpec, views: Sequence[View]) -> View | None:
    """The result, in the type of q; None where no form of the operator means the same."""
    builder, sizes = walk.builder, spec.axes
    if builder.opset < 23 or views[0].dtype == _D.DOUBLE:
        return None
    facts = _facts(spec)
    heads = _heads(walk, spec, views)
    if facts is None or heads is None:
        return None
    attributes, masks = facts
    mask = _mask(walk, spec, views, heads, masks)
    if mask is None:
        return None
    operands = [
        arranged(builder, views[0], spec.q, sizes, heads.query(spec, spec.contracted), whole=True),
        arranged(builder, views[1], spec.k, sizes, heads.key(spec, spec.contracted), whole=True),
        arranged(builder, views[2], spec.v, sizes, heads.key(spec, _axis(spec, "e")), whole=True),
    ]
    if mask.value is not None:
        operands.append(mask.value)
    if mask.is_causal:
        attributes["is_causal"] = 1
    if heads.flat:
        kv = _size(spec, heads.shared)
        attributes |= {"q_num_heads": kv * _size(spec, heads.alone), "kv_num_heads": kv}
    if views[0].dtype != _D.FLOAT:
        attributes["softmax_precision"] = int(_D.FLOAT)
    groups = heads.query(spec, _axis(spec, "e"))
    shape = [_size(spec, group) for group in groups]
    (out,) = builder.nodes("Attention", operands, [(views[0].dtype, shape)], **attributes)
    return laid_out(builder, out, groups, spec.out, sizes)


def _axis(spec: AttentionSpec, name: str) -> list[str]:
    return [name] if name in spec.axes else []


def _size(spec: AttentionSpec, axes: Sequence[str]) -> int:
    return math.prod(spec.axes[axis] for axis in axes)


def _facts(spec: AttentionSpec) -> tuple[dict[str, Any], list[Step]] | None:
    """scale and softcap, and the masks that follow; None for other steps."""
    steps = list(spec.steps)
    scale = _factor(steps)
    cap = 0.0
    if steps and steps[0].kind == "tanh":
        steps.pop(0)
        cap = _factor(steps)
        scale *= cap
    masks = [step for step in steps if not step.is_post]
    if not scale > 0 or cap < 0 or not all(hides(step, ("select", "band", "band_add")) for step in masks):
        return None
    if any(not _is_zeroing(step, masks) for step in steps if step.is_post):
        return None
    return {"scale": scale, **({"softcap": cap} if cap else {})}, steps


def _is_zeroing(post: Step, masks: Sequence[Step]) -> bool:
    """Whether a step on the weights puts 0 where the only mask hides."""
    if post.kind != "post_select" or post.value != 0 or len(masks) != 1:
        return False
    return (masks[0].kind, masks[0].operand, masks[0].negated) == ("select", post.operand, post.negated)


def _factor(steps: list[Step]) -> float:
    """The product of the factors that come first, which are taken away."""
    factor = 1.0
    while steps and steps[0].kind == "scale":
        factor *= steps.pop(0).value or 0.0
    return factor


def _heads(walk: Walk, spec: AttentionSpec, views: Sequence[View]) -> _Heads | None:
    """Of all forms that which moves the fewest elements."""
    own = [set(layout.axes) for layout in (spec.q, spec.k, spec.v)]
    alone = tuple(axis for axis in spec.q.axes if axis in spec.parallel and axis not in own[1] | own[2])
    shared = [axis for axis in spec.parallel if axis not in alone]
    if any(axis not in each for axis in shared for each in own):
        return None
    symbolic = [walk.builder.sizes.is_symbolic(spec.axes[axis]) for axis in (*shared, *alone)]
    forms = []
    for layout in (spec.q, spec.k, spec.v):
        order = [axis for axis in layout.axes if axis in shared]
        for cut in range(len(order) + 1):
            for flat in (False, True):
                form = _Heads(tuple(order[:cut]), tuple(order[cut:]), alone, flat)
                if not (flat and any(symbolic[shared.index(axis)] for axis in form.shared)):
                    forms.append(form)
    return min(forms, key=lambda form: _moved(spec, views, form))


def _moved(spec: AttentionSpec, views: Sequence[View], form: _Heads) -> tuple[int, int, bool]:
    """Elements that are transposed; heads rather than batches; no reshapes."""
    wanted = [
        (spec.q, form.query(spec, spec.contracted)),
        (spec.k, form.key(spec, spec.contracted)),
        (spec.v, form.key(spec, _axis(spec, "e"))),
    ]
    moved = sum(
        math.prod(layout.shape(spec.axes))
        for view, (layout, groups) in zip(views[:3], wanted, strict=True)
        if is_moved(view, layout, spec.axes, groups)
    )
    out = [axis for group in form.query(spec, _axis(spec, "e")) for axis in group if spec.axes[axis] != 1]
    if out != [axis for axis in spec.out.axes if spec.axes[axis] != 1]:
        moved += math.prod(spec.out.shape(spec.axes))
    return moved, abs(len(form.batch) - 1), form.flat


def _mask(walk: Walk, spec: AttentionSpec, views: Sequence[View], heads: _Heads, steps: Sequence[Step]) -> _Mask | None:
    """What says the same as `steps`; None where nothing does."""
    masks = [step for step in steps if not step.is_post]
    if not masks:
        return _Mask()
    if all(step.operand is None and step.low is None and step.high == 0 for step in masks):
        return _Mask(is_causal=True)
    logits = Logits.of(walk, spec, views, views[0].dtype)
    seen = logits.visible(masks)
    if len(masks) == len(steps) and not _sees_in_every_row(walk, spec, masks, seen):
        if any(step.kind == "band_add" or step.value != masks[0].value or step.value == -math.inf for step in masks):
            return None
        seen = logits.bounds(seen, 0.0, _LOW, views[0].dtype)
    order = spec.logit_axes
    seen = stored_view(walk.builder, seen, [order.index(axis) for axis in (*_axis(spec, "t"), "s")])
    groups = [list(heads.batch), [*heads.shared, *heads.alone], _axis(spec, "t"), ["s"]]
    if not any(axis in groups[0] + groups[1] for axis in (order[d] for d in seen.order)):
        groups = groups[2:]
    return _Mask(arranged(walk.builder, seen, plain(order), spec.axes, groups))


def _sees_in_every_row(walk: Walk, spec: AttentionSpec, masks: Sequence[Step], seen: View) -> bool:
    if all(step.operand is None for step in masks):
        return _bands_meet_every_row(walk, spec, masks)
    known = walk.builder.array(seen.value)
    if known is None:
        return False
    axis = seen.axes[-1]
    return bool(known.all() if axis is None else known.any(axis=axis).all())


def _bands_meet_every_row(walk: Walk, spec: AttentionSpec, bands: Sequence[Step]) -> bool:
    """Whether in every row r some column lies from r + low to r + high, for the highest low and the lowest high."""
    t, s = spec.size("t"), spec.size("s")
    low = max((step.low for step in bands if step.low is not None), default=-t)
    high = min((step.high for step in bands if step.high is not None), default=s)
    if any(walk.builder.sizes.is_symbolic(size) for size in (t, s)):
        return low <= 0 <= high and (t == s or all(step.low is None for step in bands))
    rows = np.arange(t)
    return bool((np.maximum(rows + low, 0) <= np.minimum(rows + high, s - 1)).all())
