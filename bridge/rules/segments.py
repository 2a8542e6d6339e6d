"""How many radio segments a text costs, and in which alphabet.

GSM 03.38 with its extension table (160 septets alone, 153 in a chain) or UCS-2 in UTF-16 units (70 alone, 67 in a
chain). A character of two units is never torn apart by a segment's end. The device splits the text by itself; this
counts, because limits and prices do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

GSM_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENDED = "\f^{}\\[~]|€"
"""Each of these is an escape and a character: two septets."""

GSM_ALONE, GSM_CHAINED = 160, 153
UCS_ALONE, UCS_CHAINED = 70, 67

_BASIC = re.compile(f"[{re.escape(GSM_BASIC)}]*")
_GSM = re.compile(f"[{re.escape(GSM_BASIC + GSM_EXTENDED)}]*")
_EXTENDED = re.compile(f"[{re.escape(GSM_EXTENDED)}]")


def measure(text: str, encoding: Literal["auto", "gsm7", "ucs2"] = "auto") -> tuple[Literal["gsm7", "ucs2"], int]:
    """The alphabet that a text goes out in, and its segments.

    Raises ValueError where gsm7 was asked for and the text has other characters.
    """
    if encoding == "ucs2":
        return "ucs2", _ucs(text)
    if _BASIC.fullmatch(text):
        return "gsm7", 1 if len(text) <= GSM_ALONE else math.ceil(len(text) / GSM_CHAINED)
    if _GSM.fullmatch(text):
        return "gsm7", _gsm_extended(text)
    if encoding == "gsm7":
        raise ValueError(f"gsm7 has no {_foreign(text)}; write the text without it, or ask for auto")
    return "ucs2", _ucs(text)


def _gsm_extended(text: str) -> int:
    if len(text) + len(_EXTENDED.findall(text)) <= GSM_ALONE:
        return 1
    return _chain((2 if char in GSM_EXTENDED else 1 for char in text), GSM_CHAINED)


def _ucs(text: str) -> int:
    if len(text.encode("utf-16-le", "surrogatepass")) // 2 <= UCS_ALONE:
        return 1
    return _chain((2 if char > "\uffff" else 1 for char in text), UCS_CHAINED)


def _chain(widths: Iterable[int], room: int) -> int:
    """Segments of ``room`` units that hold characters of these widths, none torn apart."""
    count, used = 1, 0
    for width in widths:
        if used + width > room:
            count, used = count + 1, 0
        used += width
    return count


def _foreign(text: str) -> str:
    known = GSM_BASIC + GSM_EXTENDED
    return ", ".join(repr(char) for char in list(dict.fromkeys(char for char in text if char not in known))[:3])
