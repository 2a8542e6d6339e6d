"""What a SIM's own counters say about the SMS that are in doubt on it (design 3.3, evidence 3).

Pure arithmetic. The ledger keeps an account of each SIM: the device's counters as they were at a quiet moment, plus
every result that the device has told since; at the next quiet moment it is closed. What the counters show beyond the
account are results that nobody told; what is neither counted nor waiting in the device never arrived there. A sum that
does not add up proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Counters:
    """A SIM's counters in SMS: sent and failed by the device's word, and waiting or on the radio right now."""

    ok: int
    failed: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What the counters prove.

    ``arrived``: whether those in doubt reached the device (None: only some of them, or nobody is in doubt); ``fate``:
    how all ended that reached it without a word since (None: they differ, wait still, or there are none).
    """

    arrived: Literal["all", "none"] | None = None
    fate: Literal["sent", "failed"] | None = None


Impossible = Literal["began_anew", "missing", "another_submitter"]
"""Why a sum cannot be."""


def weigh(expected: Counters, counted: Counters, *, taken: int, doubtful: int, sent: int = 0) -> Finding | Impossible:
    """Weigh counters against the account; a word where the sum cannot be.

    ``taken`` SMS are on the device for certain and have no result yet, ``doubtful`` ones may have reached it or not,
    ``sent`` ones were on air for certain, whatever the device has counted them as.
    All of it must be of one moment: no SMS of this SIM may have been handed over or have got its result between the
    two looks. A taken one that the device dropped without a word (somebody removed it there) looks like a doubtful one
    that never came, so nothing is absent while one that was taken has no result.
    """
    more_ok, more_failed = counted.ok - expected.ok, counted.failed - expected.failed
    arrived = more_ok + more_failed + counted.waiting
    if more_ok < 0 or more_failed < 0:
        return "began_anew"
    if arrived < taken + sent:
        return "missing"
    if arrived > taken + sent + doubtful:
        return "another_submitter"
    came: Literal["all", "none"] | None = None
    if doubtful:
        came = "all" if arrived == taken + sent + doubtful else "none" if not taken and arrived == sent else None
    fate: Literal["sent", "failed"] | None = None
    if arrived and not counted.waiting and (not doubtful or came == "all"):
        fate = "sent" if not more_failed else "failed" if not more_ok else None
    return Finding(came, fate)
