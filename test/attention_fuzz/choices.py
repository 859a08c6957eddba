"""What a random program is made of: an option for each part, the simplest first."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

# Letters: a b h parallel axes, g queries that share keys, t rows, s columns, d contracted, e value features.
SIZES: dict[str, dict[str, int]] = {
    "plain": {"a": 2, "b": 3, "h": 4, "g": 2, "t": 5, "s": 7, "d": 9, "e": 6},
    "square": {"a": 2, "b": 3, "h": 2, "g": 2, "t": 5, "s": 5, "d": 4, "e": 6},
    "rows like heads": {"a": 2, "b": 3, "h": 4, "g": 2, "t": 4, "s": 7, "d": 5, "e": 6},
    "one query": {"a": 2, "b": 3, "h": 4, "g": 2, "t": 1, "s": 7, "d": 9, "e": 6},
    "one value feature": {"a": 2, "b": 3, "h": 4, "g": 2, "t": 5, "s": 7, "d": 9, "e": 1},
    "one head": {"a": 2, "b": 1, "h": 1, "g": 2, "t": 5, "s": 7, "d": 9, "e": 6},
    "past a vector": {"a": 2, "b": 1, "h": 2, "g": 3, "t": 18, "s": 35, "d": 19, "e": 33},
    "past a tile": {"a": 2, "b": 1, "h": 1, "g": 2, "t": 33, "s": 131, "d": 5, "e": 7},
}

ARRANGED = ("heads first", "rows first", "reversed", "features early")
# Over which of the logits' axes an operand varies.
SPREADS = ("all", "keys", "heads", "rows", "columns", "nothing")

OPTIONS: dict[str, tuple[str, ...]] = {
    "sizes": tuple(SIZES),
    "parallel": ("bh", "h", "b", "", "abh"),
    "q": ARRANGED,
    "k": ARRANGED,
    "v": ARRANGED,
    "out": ARRANGED,
    "logits": ("heads first", "rows first", "columns early", "reversed"),
    "merged": ("no", "arguments", "result", "both"),
    "product": ("einsum", "matmul"),
    "groups": ("none", "repeat", "broadcast", "reshape", "one shared head"),
    "values": ("own", "the keys"),
    "types": ("same", "wide values", "wide queries", "accumulated in float32"),
    "scale": ("none", "times", "over", "queries times", "keys over", "both", "argument", "per head", "negative"),
    "bias": ("none", *SPREADS),
    "bias_op": ("add", "subtract", "from the left"),
    "bias_at": ("before the mask", "after the mask"),
    "alibi": ("no", "yes"),
    "cap": ("none", "tanh", "clip", "maximum", "minimum"),
    "mask": ("none", *SPREADS, "lengths", "segments", "padding both ways"),
    "masked": ("select", "select inverted", "integers", "added", "added product"),
    "fill": ("-1e9", "-jnp.inf", "jnp.finfo(x.dtype).min", "-1e30", "-1e4"),
    "band": ("none", "iota", "tril", "constant", "offset", "window", "added", "triu"),
    "combined": ("apart", "together"),
    "sink": ("none", "column", "first column", "in the sum", "beside the maximum"),
    "softmax": ("jax", "hand", "reciprocal", "shifted twice", "logarithm", "logsumexp", "deferred", "where", "guarded"),
    "softmax_type": ("same", "float32", "float32 kept"),
    "scrub": ("none", "isnan", "any"),
    "dropout": ("none", "select", "multiply"),
    "post": ("none", "mask", "head"),
    "twist": (
        "none",
        # On the logits.
        "logits rounded", "logits squared", "logits plus their mean", "logits of exponentials", "tempered rows",
        "mask by the logits", "mask added as a number", "layer norm of the logits",
        # In the softmax.
        "over the rows", "over both", "no maximum", "minimum", "column maximum", "global maximum", "mean shift",
        "epsilon", "rolled sum", "swapped sum", "rounded sum", "narrow sum", "one more", "base two", "sum of squares",
        "sum over the queries", "weights masked",
        # On the probabilities.
        "squared", "plus mean", "returned", "logits returned", "normalised again", "transposed", "ones minus",
        "combined with the logits", "rounded probabilities",
        # Around the values.
        "values over the rows", "values by the probabilities", "sink kept", "residual", "two products",
        "keys of the result",
    ),
}  # fmt: skip

# Twists that change neither what is computed, nor that it is one attention with possibly more around it.
STILL_ATTENTION = frozenset({
    "none", "tempered rows", "mask added as a number", "returned", "logits returned", "residual",
    "two products", "narrow sum", "keys of the result", "mask by the logits",
})  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """One option for each part (`OPTIONS`), in the float type `dtype`; parts left out have their simplest option."""

    dtype: str = "float32"
    parts: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, part: str) -> str:
        return dict(self.parts).get(part, OPTIONS[part][0])

    def having(self, **changes: str) -> Choices:
        """With other options."""
        parts = sorted({**dict(self.parts), **changes}.items())
        return replace(self, parts=tuple((name, option) for name, option in parts if option != OPTIONS[name][0]))

    @property
    def is_attention(self) -> bool:
        return self["twist"] in STILL_ATTENTION

    def __str__(self) -> str:
        return ", ".join([self.dtype, *(f"{name}: {option}" for name, option in self.parts)])


# How often a part has its simplest option.
_SIMPLEST = {
    "sizes": 0.5, "q": 0.5, "k": 0.5, "v": 0.5, "out": 0.5, "types": 0.8, "merged": 0.7, "bias": 0.6, "mask": 0.45,
    "softmax": 0.35, "twist": 0.5, "sink": 0.85, "cap": 0.8, "groups": 0.6, "scrub": 0.85, "dropout": 0.85,
    "post": 0.85, "alibi": 0.85, "band": 0.6, "fill": 0.3, "masked": 0.4,
}  # fmt: skip


def random_choices(rng: random.Random, dtype: str) -> Choices:
    """Half of them, on average, are not attention."""
    parts = {}
    for name, options in OPTIONS.items():
        simple = rng.random() < _SIMPLEST.get(name, 0.6)
        parts[name] = options[0] if simple else rng.choice(options[1:])
    return Choices(dtype).having(**parts)
