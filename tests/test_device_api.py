"""The page of the device's API names every word of the document, and places and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from bridge.ejoin.codes import CODES
from bridge.models import GATEWAY_COMMANDS
from tests.ejoin.cases import CASES
from tests.pages import ROOT, missing, named, tables

PAGE = ROOT / "docs" / "device-api.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [row for rows in tables(PAGE).values() for row in rows]
_PLACE = re.compile(r"`(bridge/[\w/]+\.py)::([\w.]+)`")

WORDS = re.findall(
    r"\S+",
    """
version username password type sr_url sr_cnt sr_prd sms_url sms_cnt sms_prd task_num tasks tid from to flash_sms sms chs
coding smsc intvl tmo sdr fdr dr code reason status rpt_num rpts sending sent failed unsent sender receiver port charset
seq st active bal opr sn imei imsi iccid sig tot_dur mon_dur day_dur mcn_tot mcn_mon mcn_day mtn_tot mtn_mon mtn_day
smsctl_tot smsctl_mon smsctl_day dataflow_tot dataflow_day dataflow_24hours dataflow_1hour dataflow_last dataflow_url
expires mac ip ver max-ports max-slots sim_src sms_num sms_tid sms_time src_type src_ip src_port time dur recver smc
data
""",
)
"""Every parameter of the document's tables and samples."""

URLS = re.findall(
    r"\S+",
    """
goip_post_sms.html goip_get_status.html?all_sims=1 goip_send_cmd.html?op=unlock&port=2.01 op=switch&port=1.01
port=1.01-64.01&op=switch goip_get_sms.html?sms_id=xxx&sms_num=xxx
""",
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_each_row_names_places_and_tests_that_exist(row: list[str]) -> None:
    document, does, place, shown = row
    assert document and does
    places = _PLACE.findall(place)
    assert places and [f"{file}::{name}" for file, name in places if not is_defined(ROOT / file, name)] == []
    assert named(shown) and missing(shown) == []


@pytest.mark.parametrize("word", WORDS)
def test_every_parameter_of_the_document_is_on_the_page(word: str) -> None:
    assert f"`{word}`" in TEXT


def test_every_url_note_and_code_of_the_document_is_on_the_page() -> None:
    assert [url for url in URLS if url not in TEXT] == []
    for note in ("Note 1: no port", "Notes 2 and 3", "Note 1: `tid`", "Note 2", "Notes 3 and 4"):
        assert note in TEXT
    answers = " ".join(row[0] for row in tables(PAGE)["1.3.1.4 The answer"])
    assert [n for n, code in CODES.items() if n < 17 and f"{n} {code.text}" not in answers] == []


def test_no_other_words_of_the_page_name_a_test_that_is_gone() -> None:
    assert missing(TEXT) == []


def test_every_command_is_on_the_page() -> None:
    kept = {"pause_tasks", "resume_tasks", "remove_tasks"}
    assert [name for name in GATEWAY_COMMANDS if name not in kept and f"`{name}`" not in TEXT] == []


def test_every_case_that_the_page_quotes_exists() -> None:
    quoted = set(re.findall(r'"([A-Za-z][A-Za-z ,:]{12,})"', TEXT))
    assert len(quoted) > 3 and quoted - {case.name for case in CASES} == {"Ejoin SMS HTTP API"}


def test_a_place_that_is_gone_would_be_missed() -> None:
    assert is_defined(ROOT / "bridge/gateway.py", "Gateway.submit")
    assert not is_defined(ROOT / "bridge/gateway.py", "Gateway.fax")
    assert not is_defined(ROOT / "bridge/gateway.py", "fax")


def is_defined(path: Path, name: str) -> bool:
    """Whether a module defines it: a function, a class, a constant, or a member of a class."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}
