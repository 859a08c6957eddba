"""A program as Python text: what its choices say, as somebody might have written it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention_fuzz.choices import SIZES, Choices
from attention_fuzz.inputs import Argument


@dataclass(frozen=True)
class Program:
    """`text` defines a function called `program` of `arguments`."""

    choices: Choices
    text: str
    arguments: tuple[Argument, ...]

    def function(self, filename: str = "<program>") -> Callable[..., Any]:
        """The function; remarks about it name `filename`."""
        scope: dict[str, Any] = {"jax": jax, "jnp": jnp, "np": np}
        exec(compile(self.text, filename, "exec"), scope)
        function: Callable[..., Any] = scope["program"]
        return function


def write(choices: Choices) -> Program:
    return _Writer(choices).program()


def arrange(parallel: Sequence[str], row: str, feature: str, style: str) -> str:
    """The letters of an operand in the order of its dimensions."""
    first, rest = "".join(parallel[:1]), "".join(parallel[1:])
    return {
        "heads first": first + rest + row + feature,
        "rows first": first + row + rest + feature,
        "reversed": feature + row + rest + first,
        "features early": first + feature + rest + row,
        "columns early": first + feature + rest + row,
    }[style]


@dataclass
class _Writer:
    choices: Choices
    lines: list[str] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)

    # ---- Names and sizes ----

    def __post_init__(self) -> None:
        choices = self.choices
        self.sizes = dict(SIZES[choices["sizes"]])
        parallel = list(choices["parallel"])
        self.groups = choices["groups"] if "h" in parallel else "none"
        self.shared = choices["values"] == "the keys"
        if self.shared:
            self.sizes["e"] = self.sizes["d"]
        self.sizes["n"] = self.sizes["h"] * self.sizes["g"]
        # Heads of keys and values, and those of queries and logits: n heads in groups of g that share one.
        self.key_axes = [a for a in parallel if a != "h" or self.groups != "one shared head"]
        self.query_axes = {"repeat": "n", "broadcast": "n", "reshape": "hg"}.get(self.groups, "h")
        self.axes = [letter for a in parallel for letter in (self.query_axes if a == "h" else a)]
        # As they come in: groups are one dimension with their heads.
        self.outer = ["n" if a == "h" and self.groups in ("repeat", "broadcast", "reshape") else a for a in parallel]
        self.logits = arrange(self.axes, "t", "s", choices["logits"])
        self.axis = self.logits.index("s")
        self.scalar_mask = False
        self.narrow = choices.dtype

    def shape(self, letters: str) -> tuple[int, ...]:
        return tuple(self.sizes[letter] for letter in letters)

    def argument(self, name: str, shape: tuple[int, ...], dtype: str, kind: str, bound: int = 0) -> str:
        self.arguments.append(Argument(name, shape, dtype, kind, bound))
        return name

    def line(self, text: str) -> None:
        self.lines.append(text)

    def spread(self, option: str) -> str:
        """Of the logits' letters, those over which an operand varies."""
        wanted = {
            "all": self.logits,
            "keys": "".join(self.axes[:1]) + "s",
            "heads": "".join(self.axes[-1:]),
            "rows": "t",
            "columns": "s",
            "nothing": "",
        }[option]
        return "".join(letter for letter in self.logits if letter in wanted)

    def over_logits(self, name: str, letters: str) -> str:
        """`name`, whose dimensions are `letters`, broadcastable to the logits."""
        if not letters or letters == self.logits:
            return name
        return f"{name}[{', '.join(':' if letter in letters else 'None' for letter in self.logits)}]"

    def index(self, letter: str) -> str:
        """0, 1, ... along one of the logits' dimensions."""
        shape = ", ".join("-1" if other == letter else "1" for other in self.logits)
        return f"jnp.arange({self.sizes[letter]}).reshape({shape})"

    @property
    def over_columns(self) -> str:
        return f"axis={self.axis}, keepdims=True"

    # ---- The parts, in the order of the program ----

    def program(self) -> Program:
        self.operands()
        self.scores()
        self.between()
        self.softmax()
        self.after()
        self.product()
        returned = ", ".join(self.returned)
        self.line(f"return {returned}")
        head = f"def program({', '.join(argument.name for argument in self.arguments)}):"
        comments = [f"    # {argument}" for argument in self.arguments]
        text = "\n".join([head, *comments, *(f"    {line}" for line in self.lines)]) + "\n"
        return Program(self.choices, text, tuple(self.arguments))

    def operands(self) -> None:
        types = self.choices["types"]
        wide_queries = "float32" if types == "wide queries" else self.narrow
        wide_values = "float32" if types == "wide values" else self.narrow
        self.q = self.operand("q", self.outer, "t", "d", wide_queries)
        self.k = self.operand("k", self.key_axes, "s", "d", self.narrow)
        if self.shared:
            self.v = self.k.replace("d", "e")
        else:
            self.v = self.operand("v", self.key_axes, "s", "e", wide_values)
        if self.groups in ("repeat", "broadcast"):
            self.k = self.repeated("k", self.k)
            self.v = self.repeated("v", self.v) if not self.shared else self.k.replace("d", "e")
        if self.groups == "reshape":
            self.q = self.split_heads("q", self.q)

    def operand(self, name: str, parallel: Sequence[str], row: str, feature: str, dtype: str) -> str:
        """An argument, with heads and features in one dimension where choices say so; its letters."""
        letters = arrange(parallel, row, feature, self.choices[name])
        shape = self.shape(letters)
        heads = letters[-2:-1]
        if self.choices["merged"] in ("arguments", "both") and heads in ("h", "n") and letters[-1] == feature:
            self.argument(name, (*shape[:-2], shape[-2] * shape[-1]), dtype, "activation")
            self.line(f"{name} = {name}.reshape({shape})")
        else:
            self.argument(name, shape, dtype, "activation")
        return letters

    def repeated(self, name: str, letters: str) -> str:
        axis = letters.index("h")
        if self.groups == "repeat":
            self.line(f"{name} = jnp.repeat({name}, {self.sizes['g']}, axis={axis})")
        else:
            wide = (*self.shape(letters[: axis + 1]), self.sizes["g"], *self.shape(letters[axis + 1 :]))
            whole = self.shape(letters.replace("h", "n"))
            self.line(f"{name} = jnp.broadcast_to(jnp.expand_dims({name}, {axis + 1}), {wide}).reshape({whole})")
        return letters.replace("h", "n")

    def split_heads(self, name: str, letters: str) -> str:
        split = letters.replace("n", "hg")
        self.line(f"{name} = {name}.reshape({self.shape(split)})")
        return split

    def contraction(self, left: tuple[str, str], right: tuple[str, str], out: str) -> str:
        """The product of two named operands, given with their letters, with the letters `out`."""
        accumulated = self.choices["types"] == "accumulated in float32" and self.narrow != "float32"
        option = ", preferred_element_type=jnp.float32" if accumulated else ""
        same = set(left[1]) & set(right[1]) & set(out)
        if self.choices["product"] == "einsum" or len(same) != len(self.axes):
            return f'jnp.einsum("{left[1]},{right[1]}->{out}", {left[0]}, {right[0]}{option})'
        (contracted,) = set(left[1]) & set(right[1]) - set(out)
        (row,), (column,) = set(left[1]) - set(right[1]), set(right[1]) - set(left[1])
        batch = "".join(letter for letter in out if letter in same)
        one = self.transposed(left[0], left[1], batch + row + contracted)
        other = self.transposed(right[0], right[1], batch + contracted + column)
        return self.transposed(f"jnp.matmul({one}, {other}{option})", batch + row + column, out)

    def transposed(self, name: str, letters: str, wanted: str) -> str:
        if letters == wanted:
            return name
        return f"{name}.transpose({', '.join(str(letters.index(letter)) for letter in wanted)})"

    def scores(self) -> None:
        scale = self.choices["scale"]
        if scale in ("queries times", "both"):
            self.line("q = q * 0.5")
        if scale in ("keys over", "both"):
            self.line(f"{self.keys_only()} = k / np.sqrt({self.sizes['d']}).astype(k.dtype)")
        key = "kk" if self.shared and scale in ("keys over", "both") else "k"
        self.line(f"x = {self.contraction(('q', self.q), (key, self.k), self.logits)}")
        if scale == "times":
            self.line("x = x * 0.25")
        if scale == "over":
            self.line(f"x = x / {self.sizes['d'] ** 0.5!r}")
        if scale == "negative":
            self.line("x = x * -1.5")
        if scale == "argument":
            self.line(f"x = x * {self.argument('scale', (), self.narrow, 'factor')}")
        if scale == "per head":
            letters = self.spread("heads")
            self.argument("scale", self.shape(letters), self.narrow, "factor")
            self.line(f"x = x * {self.over_logits('scale', letters)}")

    def keys_only(self) -> str:
        """Where values are the keys, scaling the keys must not scale the values."""
        return "kk" if self.shared else "k"

    def between(self) -> None:
        """What happens to the logits."""
        if self.choices["softmax_type"] != "same":
            self.line("x = x.astype(jnp.float32)")
        if self.choices["twist"] in LOGIT_TWISTS:
            self.line(LOGIT_TWISTS[self.choices["twist"]].format(over=self.over_columns, axis=self.axis))
        if self.choices["twist"] == "tempered rows":
            letters = self.spread("rows")
            self.argument("temperature", self.shape(letters), self.narrow, "factor")
            self.line(f"x = x / {self.over_logits('temperature', letters)}")
        self.cap()
        if self.choices["bias_at"] == "before the mask":
            self.bias()
        self.masks()
        if self.choices["bias_at"] == "after the mask":
            self.bias()
        if self.choices["twist"] == "logits returned":
            self.returned.append("x")

    def cap(self) -> None:
        text = {
            "tanh": "x = 5.0 * jnp.tanh(x / 5.0)",
            "clip": "x = jnp.clip(x, -2.0, 2.0)",
            "maximum": "x = jnp.maximum(x, -1.0)",
            "minimum": "x = jnp.minimum(x, 1.0)",
        }.get(self.choices["cap"])
        if text:
            self.line(text)

    def bias(self) -> None:
        if self.choices["bias"] != "none":
            letters = self.spread(self.choices["bias"])
            self.argument("bias", self.shape(letters), self.narrow, "bias")
            wide = self.over_logits("bias", letters)
            forms = {"add": f"x + {wide}", "subtract": f"x - {wide}", "from the left": f"{wide} + x"}
            self.line(f"x = {forms[self.choices['bias_op']]}")
        if self.choices["alibi"] == "yes":
            letters = self.spread("heads")
            self.argument("slopes", self.shape(letters), self.narrow, "factor")
            distance = f"({self.index('s')} - {self.index('t')}).astype(x.dtype)"
            self.line(f"x = x + {self.over_logits('slopes', letters)} * {distance}")

    # ---- Masks ----

    def masks(self) -> None:
        mask, band = self.mask(), self.band()
        fill = self.choices["fill"]
        if mask and band and self.choices["combined"] == "together" and self.choices["band"] != "added":
            self.line(f"hidden = jnp.logical_not({mask} & {band})")
            self.line(f"x = jnp.where(hidden, {fill}, x)")
            return
        if band and self.choices["band"] == "added":
            self.line(f"x = x + jnp.where({band}, 0.0, {fill}).astype(x.dtype)")
        elif band:
            self.line(f"x = jnp.where({band}, x, {fill})")
        if mask:
            forms = {
                "select": f"jnp.where({mask}, x, {fill})",
                "select inverted": f"jnp.where(~({mask}), {fill}, x)",
                "integers": f"jnp.where({mask}, x, {fill})",
                "added": f"x + jnp.where({mask}, 0.0, {fill}).astype(x.dtype)",
                "added product": f"x + (1.0 - ({mask}).astype(x.dtype)) * -1e4",
            }
            self.line(f"x = {forms[self.choices['masked']]}")

    @property
    def has_mask(self) -> bool:
        """Whether `mask` says what may be seen."""
        return self.choices["mask"] != "none" and self.choices["twist"] != "mask added as a number"

    def mask(self) -> str:
        """What is true where a column may be seen; the line before defines it."""
        kind = self.choices["mask"]
        if kind == "none":
            return ""
        batch = "".join(self.axes[:1])
        if kind == "lengths":
            self.argument("lengths", self.shape(batch), "int32", "lengths", self.sizes["s"] + 1)
            self.line(f"mask = {self.index('s')} < {self.over_logits('lengths', batch)}")
        elif kind == "segments":
            rows, columns = (self.letters(batch + other) for other in "ts")
            self.argument("row_segments", self.shape(rows), "int32", "segments", 2)
            self.argument("segments", self.shape(columns), "int32", "segments", 2)
            self.line(f"mask = {self.over_logits('row_segments', rows)} == {self.over_logits('segments', columns)}")
        elif kind == "padding both ways":
            rows, columns = (self.letters(batch + other) for other in "ts")
            self.argument("row_mask", self.shape(rows), "bool", "mask")
            self.argument("mask", self.shape(columns), "bool", "mask")
            self.line(f"mask = {self.over_logits('row_mask', rows)} & {self.over_logits('mask', columns)}")
        else:
            letters = self.spread(kind)
            self.scalar_mask = not letters
            integers = self.choices["masked"] == "integers"
            self.argument("mask", self.shape(letters), "int32" if integers else "bool", "mask")
            wide = self.over_logits("mask", letters)
            self.line(f"mask = {wide} != 0" if integers else f"mask = {wide}")
        if self.choices["twist"] == "mask added as a number":
            self.line("x = x + mask")
            return ""
        return "mask"

    def letters(self, wanted: str) -> str:
        return "".join(letter for letter in self.logits if letter in wanted)

    def band(self) -> str:
        t, s = self.sizes["t"], self.sizes["s"]
        row, column = self.index("t"), self.index("s")
        plane = self.over_logits("{}", self.letters("ts")) if self.logits.index("t") < self.axis else ""
        flipped = self.over_logits("{}.T", self.letters("ts"))
        two = plane or flipped
        return {
            "none": "",
            "iota": f"({column} <= {row})",
            "added": f"({column} <= {row})",
            "offset": f"({column} <= {row} + {s - t})",
            "window": f"(jnp.abs({column} - {row}) < 3)",
            "triu": f"({column} >= {row})",
            "tril": two.format(f"jnp.tril(jnp.ones(({t}, {s}), bool))"),
            "constant": two.format(f"np.tri({t}, {s}, dtype=bool)"),
        }[self.choices["band"]]

    # ---- The softmax ----

    def softmax(self) -> None:
        self.sink = self.choices["sink"]
        if self.sink != "none":
            letters = self.spread("heads")
            self.argument("sinks", self.shape(letters), self.narrow, "bias")
            self.line(f"sink = {self.over_logits('sinks', letters)}.astype(x.dtype)")
        if self.sink in ("column", "first column"):
            shape = list(self.shape(self.logits))
            shape[self.axis] = 1
            joined = ["x", f"jnp.broadcast_to(sink, {tuple(shape)})"]
            if self.sink == "first column":
                joined.reverse()
            self.line(f"x = jnp.concatenate([{', '.join(joined)}], axis={self.axis})")
        twist = self.choices["twist"]
        form = self.choices["softmax"]
        if twist in SOFTMAX_TWISTS:
            rows = self.logits.index("t")
            alike = [i for i, a in enumerate(self.logits) if a not in "ts" and self.sizes[a] == self.sizes["t"]]
            swap = alike[0] if alike else rows
            for line in SOFTMAX_TWISTS[twist]:
                self.line(line.format(over=self.over_columns, axis=self.axis, rows=rows, swap=swap))
        elif self.sink in ("in the sum", "beside the maximum"):
            top = f"jnp.max(x, {self.over_columns})"
            self.line(f"top = jnp.maximum({top}, sink)" if self.sink == "in the sum" else f"top = {top}")
            self.line("p = jnp.exp(x - top)")
            self.line(f"total = jnp.sum(p, {self.over_columns}) + jnp.exp(sink - top)")
            if form != "deferred":
                self.line("p = p / total")
        elif form == "where" and self.has_mask and self.sink == "none":
            self.line(f"p = jax.nn.softmax(x, axis={self.axis}, where=mask)")
        else:
            for line in SOFTMAXES.get(form, SOFTMAXES["jax"]):
                self.line(line.format(over=self.over_columns, axis=self.axis))
        self.deferred = form == "deferred" and twist not in SOFTMAX_TWISTS
        if self.sink in ("column", "first column") and not self.sink_kept:
            start = 0 if self.sink == "column" else 1
            self.line(f"p = jax.lax.slice_in_dim(p, {start}, {start + self.sizes['s']}, axis={self.axis})")

    @property
    def sink_kept(self) -> bool:
        """Whether the probabilities have a column more than the masks."""
        return self.choices["twist"] == "sink kept" and self.sink in ("column", "first column")

    def after(self) -> None:
        """What happens to the probabilities."""
        if self.sink_kept:
            return
        if self.choices["scrub"] == "isnan":
            self.line("p = jnp.where(jnp.isnan(p), 0.0, p)")
        if self.choices["scrub"] == "any" and self.has_mask and not self.scalar_mask:
            self.line(f"p = jnp.where(jnp.any(mask, {self.over_columns}), p, 0.0)")
        if self.choices["post"] == "mask" and self.has_mask:
            self.line("p = jnp.where(mask, p, 0.0)")
        if self.choices["post"] == "head":
            letters = self.spread("heads")
            self.argument("heads", self.shape(letters), self.narrow, "factor")
            self.line(f"p = p * {self.over_logits('heads', letters)}")
        twist = self.choices["twist"]
        if twist in PROBABILITY_TWISTS:
            self.line(PROBABILITY_TWISTS[twist].format(over=self.over_columns, axis=self.axis))
        if twist == "returned":
            self.returned.append("p")
        if self.choices["softmax_type"] == "float32" and self.narrow != "float32":
            self.line("p = p.astype(v.dtype)" if not self.shared else "p = p.astype(k.dtype)")
        dropout = self.choices["dropout"]
        if dropout != "none":
            select = dropout == "select"
            self.argument("keep", self.shape(self.logits), "bool" if select else self.narrow, "keep")
            self.line("p = jnp.where(keep, p / 0.9, 0.0)" if select else "p = p * keep")

    # ---- The values ----

    def product(self) -> None:
        twist, values = self.choices["twist"], "k" if self.shared else "v"
        out_letters = arrange(self.axes, "t", "e", self.choices["out"])
        if self.groups == "reshape":
            out_letters = arrange(self.outer, "t", "e", self.choices["out"]).replace("n", "hg")
        logits, features = self.logits, self.v
        if twist == "values over the rows" and self.sizes["t"] == self.sizes["s"]:
            logits = logits.translate(str.maketrans("ts", "st"))
        if twist == "values by the probabilities":
            self.line(f"{values} = {values} * jnp.sum(p).astype({values}.dtype)")
        if self.sink_kept:
            axis = features.index("s")
            more = f"jnp.ones_like(jax.lax.slice_in_dim({values}, 0, 1, axis={axis}))"
            self.line(f"{values} = jnp.concatenate([{values}, {more}], axis={axis})")
        self.line(f"o = {self.contraction(('p', logits), (values, features), out_letters)}")
        if self.deferred:
            self.divide(out_letters)
        if twist == "two products":
            self.returned.append(self.contraction(("p", logits), (f"jnp.cos({values})", features), out_letters))
        if twist == "residual":
            self.line("o = o + jnp.sum(q)")
        if twist == "keys of the result":
            self.line("o = o * jnp.sum(k).astype(o.dtype)")
        self.merge(out_letters)
        self.returned.insert(0, "o")

    def divide(self, out: str) -> None:
        """By the sum of the exponentials, which lacks the columns."""
        rows = self.logits.replace("s", "")
        self.line(f"total = total.reshape({self.shape(rows)})")
        wanted = out.replace("e", "")
        moved = self.transposed("total", rows, wanted)
        self.line(f"o = o / jnp.expand_dims({moved}, {out.index('e')}).astype(o.dtype)")

    def merge(self, out: str) -> None:
        if self.groups == "reshape":
            out = out.replace("hg", "n")
            self.line(f"o = o.reshape({self.shape(out)})")
        if self.choices["merged"] in ("result", "both") and out[-2:] in ("he", "ne"):
            shape = self.shape(out)
            self.line(f"o = o.reshape({(*shape[:-2], shape[-2] * shape[-1])})")


SOFTMAXES: dict[str, tuple[str, ...]] = {
    "jax": ("p = jax.nn.softmax(x, axis={axis})",),
    "hand": ("e = jnp.exp(x - jnp.max(x, {over}))", "p = e / jnp.sum(e, {over})"),
    "reciprocal": ("e = jnp.exp(x - jnp.max(x, {over}))", "p = e * (1.0 / jnp.sum(e, {over}))"),
    "shifted twice": ("x = x - jnp.max(x, {over})", "p = jax.nn.softmax(x, axis={axis})"),
    "logarithm": ("p = jnp.exp(jax.nn.log_softmax(x, axis={axis}))",),
    "logsumexp": ("p = jnp.exp(x - jax.nn.logsumexp(x, {over}))",),
    "deferred": ("p = jnp.exp(x - jnp.max(x, {over}))", "total = jnp.sum(p, {over})"),
    "guarded": (
        "top = jnp.max(x, {over})",
        "e = jnp.exp(x - jnp.where(jnp.isfinite(top), top, 0.0))",
        "p = e / jnp.sum(e, {over})",
    ),
}

LOGIT_TWISTS = {
    "logits rounded": "x = jnp.round(x)",
    "logits squared": "x = x * x",
    "logits plus their mean": "x = x + jnp.mean(x, {over})",
    "logits of exponentials": "x = jnp.exp(x)",
    "mask by the logits": "x = jnp.where(x > 0, x, -1e4)",
    "layer norm of the logits": "x = (x - jnp.mean(x, {over})) / jnp.std(x, {over})",
}

_E = "e = jnp.exp(x - jnp.max(x, {over}))"
SOFTMAX_TWISTS: dict[str, tuple[str, ...]] = {
    "over the rows": ("p = jax.nn.softmax(x, axis={rows})",),
    "over both": ("p = jax.nn.softmax(x, axis=({axis}, {rows}))",),
    "no maximum": ("e = jnp.exp(x)", "p = e / jnp.sum(e, {over})"),
    "minimum": ("e = jnp.exp(x - jnp.min(x, {over}))", "p = e / jnp.sum(e, {over})"),
    "column maximum": ("e = jnp.exp(x - jnp.max(x, axis={rows}, keepdims=True))", "p = e / jnp.sum(e, {over})"),
    "global maximum": ("e = jnp.exp(x - jnp.max(x))", "p = e / jnp.sum(e, {over})"),
    "mean shift": ("e = jnp.exp(x - jnp.mean(x, {over}))", "p = e / jnp.sum(e, {over})"),
    "epsilon": (_E, "p = e / (jnp.sum(e, {over}) + 1e-3)"),
    "rolled sum": (_E, "p = e / jnp.roll(jnp.sum(e, {over}), 1, axis={rows})"),
    "swapped sum": (_E, "p = e / jnp.sum(e, {over}).swapaxes({rows}, {swap})"),
    "rounded sum": (_E, "p = e / jnp.ceil(jnp.sum(e, {over}))"),
    "narrow sum": (_E, "p = e / jnp.sum(e.astype(jnp.bfloat16), {over}).astype(e.dtype)"),
    "one more": (_E, "p = e / jnp.sum(e, {over}, initial=1.0)"),
    "base two": ("e = jnp.exp2(x - jnp.max(x, {over}))", "p = e / jnp.sum(e, {over})"),
    "sum of squares": (_E, "p = e / jnp.sum(e * e, {over})"),
    "sum over the queries": (_E, "p = e / jnp.sum(e, axis={rows}, keepdims=True)"),
    "weights masked": (_E, "e = jnp.where(x > 0, e, 0.0)", "p = e / jnp.sum(e, {over})"),
}

PROBABILITY_TWISTS = {
    "squared": "p = p * p",
    "plus mean": "p = p + jnp.mean(p, {over})",
    "normalised again": "p = p / jnp.sum(p, {over})",
    "transposed": "p = p + jnp.flip(p, {axis})",
    "ones minus": "p = 1.0 - p",
    "combined with the logits": "p = p * jnp.max(x, {over})",
    "rounded probabilities": "p = jnp.round(p * 8.0)",
}
