"""Chaos takes as long as many others together: whoever runs tests side by side begins with it."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_chaos.py")
