"""What a text costs: the tables of GSM 03.38, the borders, and characters that must not be torn apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules import segments
from bridge.rules.segments import GSM_BASIC, GSM_EXTENDED, measure


def test_the_basic_table_has_its_127_characters_beside_the_escape():
    assert len(GSM_BASIC) == len(set(GSM_BASIC)) == 127
    assert len(GSM_EXTENDED) == len(set(GSM_EXTENDED)) == 10
    assert not set(GSM_BASIC) & set(GSM_EXTENDED)


CASES = {
    "empty": ("", "gsm7", 1),
    "plain": ("Hello", "gsm7", 1),
    "one full segment": ("a" * 160, "gsm7", 1),
    "one too many": ("a" * 161, "gsm7", 2),
    "two full segments": ("a" * 306, "gsm7", 2),
    "three": ("a" * 307, "gsm7", 3),
    "umlauts and Greek are basic": ("Ä" * 100 + "Ω" * 60, "gsm7", 1),
    "line ends are basic": ("a\r\nb", "gsm7", 1),
    "the euro sign costs two": ("€" * 80, "gsm7", 1),
    "81 euro signs": ("€" * 81, "gsm7", 2),
    "a pair does not fit into the last septet": ("a" * 152 + "€" + "a" * 152, "gsm7", 3),
    "nor does it leave a gap where it fits": ("a" * 151 + "€" + "a" * 153, "gsm7", 2),
    "braces fill 76 to a segment": ("{" * 152, "gsm7", 2),
    "and one more": ("{" * 153, "gsm7", 3),
    "one foreign character turns all": ("ç" + "a" * 69, "ucs2", 1),
    "small c with cedilla is not in the table": ("ç", "ucs2", 1),
    "capital C with cedilla is": ("Ç", "gsm7", 1),
    "the backtick is not": ("`", "ucs2", 1),
    "the escape character is not": ("\x1b", "ucs2", 1),
    "71 in Cyrillic": ("ж" * 71, "ucs2", 2),
    "two full segments of Cyrillic": ("ж" * 134, "ucs2", 2),
    "and one more Cyrillic": ("ж" * 135, "ucs2", 3),
    "35 emoji are 70 units": ("😀" * 35, "ucs2", 1),
    "36 emoji are 72 units": ("😀" * 36, "ucs2", 2),
    "an emoji is not torn apart": ("ж" * 66 + "😀" + "ж" * 66, "ucs2", 3),
    "where it fits it costs no gap": ("ж" * 65 + "😀" + "ж" * 67, "ucs2", 2),
    "half a surrogate pair is one unit": ("\ud83d" + "ж" * 69, "ucs2", 1),
}


@pytest.mark.parametrize(("text", "encoding", "count"), CASES.values(), ids=CASES)
def test_measure(text, encoding, count):
    assert measure(text) == (encoding, count)


def test_ucs2_may_be_asked_for():
    assert measure("a" * 71, "ucs2") == ("ucs2", 2)


def test_gsm7_may_be_asked_for():
    assert measure("{" * 81, "gsm7") == ("gsm7", 2)


def test_gsm7_is_refused_by_naming_what_it_has_not():
    with pytest.raises(ValueError, match=r"^gsm7 has no 'ж', '😀'; write the text without it, or ask for auto$"):
        measure("жabc😀ж", "gsm7")


@settings(deadline=None)
@given(st.text(max_size=400))
def test_the_count_is_the_least_that_holds_all_characters_whole(text):
    encoding, count = measure(text)
    alone, chained = {
        "gsm7": (segments.GSM_ALONE, segments.GSM_CHAINED),
        "ucs2": (segments.UCS_ALONE, segments.UCS_CHAINED),
    }[encoding]
    widths = [2 if (char in GSM_EXTENDED if encoding == "gsm7" else char > "\uffff") else 1 for char in text]
    if sum(widths) <= alone:
        assert count == 1
    else:
        # Each segment loses one unit at most, to a pair that does not fit its end.
        assert sum(widths) <= count * chained
        assert (count - 1) * (chained - 1) < sum(widths)


@settings(deadline=None)
@given(st.text(st.sampled_from(GSM_BASIC + GSM_EXTENDED), max_size=400))
def test_what_the_tables_hold_goes_out_in_gsm7(text):
    assert measure(text) == measure(text, "gsm7")
