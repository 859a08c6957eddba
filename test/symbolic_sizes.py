"""Static modules with witnesses for symbolic sizes, as tests compare them."""

import re

from zenith_mlir.errors import ZenithError


def spelled(specialized, module=None):
    """The text with sizes replaced by what they mean."""

    def meaning(match):
        try:
            return f"[{specialized.decode(int(match[0]))}]"
        except ZenithError:
            return match[0]

    return re.sub(r"(?<=[<x\s,\[(=:-])\d{4,}(?=x|[^\w.])", meaning, (module or specialized.module).text())
