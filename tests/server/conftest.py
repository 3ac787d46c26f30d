"""What the tests of servers need of pytest."""

from __future__ import annotations

from collections import Counter


def pytest_collection_modifyitems(items):
    """Tell apart what has one name, as all calls have that schemathesis tries: side by side each name runs once."""
    seen = Counter[str]()
    for item in items:
        seen[item.nodeid] += 1
        if seen[item.nodeid] > 1:
            item._nodeid = f"{item.nodeid}[{seen[item.nodeid]}]"
