"""`zenith.memory`: what a program takes and when, and arrays kept within a budget.

==================  ==================================================================================
`sizes.py`          2GiB, 50%: sizes and budgets as people write them
`timeline.py`       values over the operations of a schedule, and what is live
`liveness.py`       the timeline of a compiled program, from XLA's schedule and buffer assignment
`estimate.py`       the timeline of a StableHLO module, from its text
`memory_report.py`  all sizes of a program and its timeline, as a table, a plot and JSON
`sources.py`        `report`: from what is compiled, and what is not
`manager.py`        `Manager`: arrays within a budget
`spill.py`          where arrays go that do not fit: host memory, files
`pool.py`           freed buffers for new arrays
`store.py`          `ActivationStore`: arrays by name
==================  ==================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zenith_mlir.lazily import attributes

if TYPE_CHECKING:
    from zenith_mlir.memory.manager import BudgetExceeded as BudgetExceeded
    from zenith_mlir.memory.manager import Handle as Handle
    from zenith_mlir.memory.manager import Manager as Manager
    from zenith_mlir.memory.memory_report import MemoryReport as MemoryReport
    from zenith_mlir.memory.sizes import Budget as Budget
    from zenith_mlir.memory.sizes import format_bytes as format_bytes
    from zenith_mlir.memory.sizes import parse_bytes as parse_bytes
    from zenith_mlir.memory.sources import report as report
    from zenith_mlir.memory.store import ActivationStore as ActivationStore
    from zenith_mlir.memory.timeline import Timeline as Timeline
    from zenith_mlir.memory.timeline import Value as Value

# Imported when first used: passes read sizes without loading jax.
_HOMES = {
    "ActivationStore": "store",
    "Budget": "sizes",
    "BudgetExceeded": "manager",
    "Handle": "manager",
    "Manager": "manager",
    "MemoryReport": "memory_report",
    "Timeline": "timeline",
    "Value": "timeline",
    "format_bytes": "sizes",
    "parse_bytes": "sizes",
    "report": "sources",
}

__all__ = list(_HOMES)

__getattr__ = attributes(__name__, _HOMES)
