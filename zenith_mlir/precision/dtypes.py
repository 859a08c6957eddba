"""Short names of floating-point types, as people write them."""

from __future__ import annotations

SHORT = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "half": "float16",
    "full": "float32",
}
