"""Counts the radio's segments of a text, independently of the bridge, so that the record can contradict it.

GSM 03.38 with its extension table (two septets each, never split over two segments), else UCS-2 in UTF-16 code units
(a surrogate pair is never split). A single segment takes 160 or 70, each of several 153 or 67.
"""

from __future__ import annotations

import functools

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = frozenset("\f^{}\\[~]|€")
GSM_7 = BASIC | EXTENSION
AUTO, UCS2, SEVEN_BIT = 0, 1, 2


@functools.lru_cache(maxsize=4096)
def count(text: str, coding: int = AUTO) -> int:
    """Segments of a text under the device's ``coding``: 0 the shorter alphabet that fits, 1 UCS-2, 2 seven bits.

    Under 2 a character outside the alphabet goes out as one replacement character.
    """
    if coding != UCS2 and (coding == SEVEN_BIT or GSM_7.issuperset(text)):
        return _fill([2 if c in EXTENSION else 1 for c in text], single=160, joined=153)
    return _fill([2 if ord(c) > 0xFFFF else 1 for c in text], single=70, joined=67)


def _fill(widths: list[int], *, single: int, joined: int) -> int:
    if sum(widths) <= single:
        return 1
    segments, free = 1, joined
    for width in widths:
        if width > free:
            segments, free = segments + 1, joined
        free -= width
    return segments
