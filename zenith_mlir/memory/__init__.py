"""`zenith.memory`: what a program takes and when, and arrays kept within a budget.

==================  ==================================================================================
`sizes.py`          2GiB, 50%: sizes and budgets as people write them
`timeline.py`       values over the operations of a schedule, and what is live
`liveness.py`       the timeline of a compiled program, from XLA's schedule and buffer assignment
`estimate.py`       the timeline of a StableHLO module, from its text
`report.py`         `report`: all sizes of a program, its timeline, as a table, a plot and JSON
==================  ==================================================================================
"""

from __future__ import annotations

from zenith_mlir.memory.report import MemoryReport, report
from zenith_mlir.memory.sizes import Budget, format_bytes, parse_bytes
from zenith_mlir.memory.timeline import Moment, Timeline, Value

__all__ = ["Budget", "MemoryReport", "Moment", "Timeline", "Value", "format_bytes", "parse_bytes", "report"]
