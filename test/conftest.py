"""An option for runs that have to be short: one test in so many."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, metavar="N", help="run one test in N of those selected")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    step = config.getoption("--one-in")
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % step])
    items[:] = items[::step]
