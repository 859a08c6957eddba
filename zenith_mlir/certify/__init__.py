"""Proof per rewrite: a rewritten program against the original one, with the original in float64 as the judge.

=================  ==================================================================================
`judge.py`         what an error is, and when one is sound
`certificate.py`   what was found: `Case`, `Certificate`
`flow.py`          where values come from, across calls and loops
`roles.py`         what each argument of a program is for, so that random ones make sense
`inputs.py`        input sets, ordinary and adversarial
`pair.py`          `certify_pair`: two programs
`composites.py`    `certify_composites`: every zenith.* composite of a module against its implementation
`compare.py`       `compare`: a whole program before and after a pipeline, with time and memory
=================  ==================================================================================
"""

from __future__ import annotations

from zenith_mlir.certify.certificate import Case, Certificate
from zenith_mlir.certify.composites import certify_composites
from zenith_mlir.certify.pair import certify_pair

__all__ = ["Case", "Certificate", "certify_composites", "certify_pair"]
