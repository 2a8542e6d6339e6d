"""Two of the tests take as long as all others together: whoever runs tests side by side begins with them."""

from __future__ import annotations

import pytest

LONGEST = ("test_chaos.py", "test_crash.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
