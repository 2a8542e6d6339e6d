"""What the pages of docs/ list in tables, and the tests that they name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def tables(page: Path) -> dict[str, list[list[str]]]:
    """The rows of each heading's table, each as its cells, without the head."""
    found: dict[str, list[list[str]]] = {}
    heading, lines = "", page.read_text(encoding="utf-8").splitlines()
    for line, next_line in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---") and not next_line.startswith("| ---"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def named(text: str) -> list[tuple[str, str]]:
    """File and name of each test that a text names."""
    return _NAMED.findall(text)


def missing(text: str) -> list[str]:
    """The tests that a text names and that do not exist."""
    return [f"{file}::{name}" for file, name in named(text) if name not in defined_in(ROOT / file)]


def defined_in(path: Path) -> set[str]:
    """The tests in a file, as pytest names them without parameters."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + one.name for one in inside if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}
