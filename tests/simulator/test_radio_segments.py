"""Segments as the radio counts them, from the numbers of GSM 03.38 and 03.40 and not from the bridge."""

from __future__ import annotations

import pytest

from bridge.simulator.segments import count


@pytest.mark.parametrize(
    ("text", "coding", "segments"),
    [
        pytest.param("a", 0, 1, id="one letter"),
        pytest.param("a" * 160, 0, 1, id="a full single segment"),
        pytest.param("a" * 161, 0, 2, id="one letter more"),
        pytest.param("a" * 306, 0, 2, id="two full segments"),
        pytest.param("a" * 307, 0, 3, id="three segments"),
        pytest.param("ä@£Ω\n" * 32, 0, 1, id="letters of the basic alphabet"),
        pytest.param("€" * 80, 0, 1, id="the extension table costs two"),
        pytest.param("€" * 81, 0, 2, id="and spills over"),
        pytest.param("a" * 152 + "€" + "a" * 152, 0, 3, id="an escape pair is never split: 306 septets need three"),
        pytest.param("a" * 153 + "€" + "a" * 151, 0, 2, id="where it needs no split, they need two"),
        pytest.param("[]{}^~|\\\f", 0, 1, id="the whole extension table"),
        pytest.param("ж" * 70, 0, 1, id="a full UCS-2 segment"),
        pytest.param("ж" * 71, 0, 2, id="one letter more in UCS-2"),
        pytest.param("ж" * 134, 0, 2, id="two full UCS-2 segments"),
        pytest.param("ж" * 135, 0, 3, id="three UCS-2 segments"),
        pytest.param("\U0001f600" * 35, 0, 1, id="an emoji is two units"),
        pytest.param("\U0001f600" * 36, 0, 2, id="and spills over in pairs"),
        pytest.param("ж" * 66 + "\U0001f600" + "ж" * 66, 0, 3, id="a surrogate pair is never split"),
        pytest.param("a" * 71, 1, 2, id="UCS-2 on request"),
        pytest.param("ж" * 160, 2, 1, id="seven bits on request, with replacements"),
        pytest.param("`", 0, 1, id="a backtick is not in the alphabet"),
        pytest.param("`" * 71, 0, 2, id="so it makes UCS-2"),
    ],
)
def test_segments(text, coding, segments):
    assert count(text, coding) == segments
