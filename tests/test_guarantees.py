"""The page of guarantees promises nothing that no test shows, and has a row for every way to crash."""

from __future__ import annotations

import pytest

from tests.pages import ROOT, defined_in, missing, named, tables

PAGE = ROOT / "docs" / "guarantees.md"
TABLES = tables(PAGE)
NOT_PROMISED = "What is not promised"
CRASHES = "tests/system/test_crash_table.py"
INBOX_PAGE = ("tests/flows/test_inquiry.py", "TestInbox::test_a_page_that_could_not_be_stored_is_read_again")
PROMISED = [row for heading, rows in TABLES.items() if heading != NOT_PROMISED for row in rows]


@pytest.mark.parametrize("row", PROMISED, ids=lambda row: row[0][:60])
def test_each_promise_is_shown_by_tests_that_exist(row):
    *says, shown = row
    assert all(says)
    assert named(shown)
    assert missing(shown) == []


def test_no_other_words_of_the_page_name_a_test_that_is_gone():
    assert missing(PAGE.read_text(encoding="utf-8")) == []


def test_each_way_to_crash_has_its_row():
    shown = {one for row in TABLES["Crashes"] for one in named(row[-1])}
    assert shown == {(CRASHES, name) for name in defined_in(ROOT / CRASHES)} | {INBOX_PAGE}


def test_the_page_says_what_is_not_promised():
    assert len(TABLES[NOT_PROMISED]) > 1
    assert all(cell for row in TABLES[NOT_PROMISED] for cell in row)


def test_rows_are_read_without_heads_and_under_their_headings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n| a | test |\n| --- | --- |\n| one | `tests/no.py::test_x` |\n\n"
        "## Next\n\n| b | test |\n| --- | --- |\n| two | - |\n"
    )
    assert tables(page) == {"Page": [["one", "`tests/no.py::test_x`"]], "Next": [["two", "-"]]}
    assert named("`tests/a/test_b.py::TestC::test_d`, test_e") == [("tests/a/test_b.py", "TestC::test_d")]


def test_a_test_that_is_gone_would_be_missed(tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text(
        "def test_one(): ...\n\nclass TestTwo:\n    async def test_in(self): ...\n    def helper(self): ...\n"
    )
    assert defined_in(file) == {"test_one", "TestTwo::test_in"}
    assert missing("`tests/test_guarantees.py::test_that_nobody_wrote`") != []
