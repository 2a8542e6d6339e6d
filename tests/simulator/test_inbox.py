"""The inbox of a box: ids in the order of arrival, pages that a reader can follow, numbering anew after a start."""

from __future__ import annotations

import pytest

from bridge.ejoin.facts import ReceivedSms
from bridge.ejoin.ports import Port
from bridge.simulator.inbox import Inbox


def sms(text):
    return ReceivedSms(Port(1, 1), 1.0, "+491", "", text, via="inbox")


@pytest.fixture
def inbox():
    inbox = Inbox("first")
    for text in "abcde":
        inbox.add(sms(text))
    return inbox


def texts(page):
    return "".join(row.text for row in page.rows), page.next_sms


@pytest.mark.parametrize(
    ("start", "count", "told"),
    [
        pytest.param(1, 0, ("abcde", 6), id="all"),
        pytest.param(1, 2, ("ab", 3), id="the first page"),
        pytest.param(3, 2, ("cd", 5), id="the next page"),
        pytest.param(5, 2, ("e", 6), id="the last page"),
        pytest.param(6, 2, ("", 6), id="nothing new"),
        pytest.param(99, 0, ("", 6), id="an id of another numbering"),
        pytest.param(-3, 1, ("a", 2), id="an id before the first"),
    ],
)
def test_a_page_tells_where_the_next_begins(inbox, start, count, told):
    assert texts(inbox.page(start, count)) == told
    assert len(inbox) == 5


def test_an_empty_inbox_begins_at_1():
    assert texts(Inbox("first").page(1, 0)) == ("", 1)


def test_what_is_deleted_is_told_a_last_time_and_its_ids_are_not_given_again(inbox):
    assert texts(inbox.page(2, 2, delete=True)) == ("bc", 4)
    assert texts(inbox.page(1, 0)) == ("ade", 6)
    inbox.page(1, 0, delete=True)
    inbox.add(sms("f"))
    assert texts(inbox.page(1, 0)) == ("f", 7)


def test_after_a_start_what_is_still_there_is_numbered_from_1_under_a_new_name(inbox):
    inbox.page(1, 3, delete=True)
    inbox.restart("second")
    page = inbox.page(1, 1)
    assert (page.ssrc, *texts(page)) == ("second", "d", 2)
    inbox.add(sms("f"))
    assert texts(inbox.page(1, 0)) == ("def", 4)
