"""A SIM's counters as evidence: what they prove, what they do not, and that they never prove a lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.evidence import Counters, Finding, weigh

ACCOUNT = Counters(10, 2)


def look(ok: int, failed: int, waiting: int = 0, *, taken: int = 0, doubtful: int = 0, sent: int = 0) -> Finding | str:
    return weigh(ACCOUNT, Counters(10 + ok, 2 + failed, waiting), taken=taken, doubtful=doubtful, sent=sent)


@pytest.mark.parametrize(
    ("finding", "proves"),
    [
        pytest.param(look(0, 0, doubtful=1), Finding("none"), id="nothing beyond the account: it never came"),
        pytest.param(look(1, 0, doubtful=1), Finding("all", "sent"), id="off by exactly this one: sent"),
        pytest.param(look(0, 1, doubtful=1), Finding("all", "failed"), id="off by exactly this one: failed"),
        pytest.param(look(0, 0, 1, doubtful=1), Finding("all"), id="it waits in the device"),
        pytest.param(look(0, 0, doubtful=2), Finding("none"), id="none of several came"),
        pytest.param(look(1, 0, doubtful=2), Finding(None), id="one of two came, and nobody knows which"),
        pytest.param(look(2, 0, doubtful=2), Finding("all", "sent"), id="both came and were sent"),
        pytest.param(look(1, 1, doubtful=2), Finding("all", None), id="both came, one was sent"),
        pytest.param(look(1, 0, taken=1), Finding(None, "sent"), id="the lost report said sent"),
        pytest.param(look(0, 1, taken=1), Finding(None, "failed"), id="the lost report said failed"),
        pytest.param(look(1, 1, taken=2), Finding(None, None), id="one of each, and nobody knows which"),
        pytest.param(look(1, 0, 1, taken=2), Finding(None, None), id="one of two still waits"),
        pytest.param(look(1, 0, taken=1, doubtful=1), Finding(None), id="the taken one, or it was dropped there"),
        pytest.param(look(0, 0, 1, taken=1, doubtful=1), Finding(None), id="the taken one waits, or the other one"),
        pytest.param(look(2, 0, taken=1, doubtful=1), Finding("all", "sent"), id="both were sent"),
        pytest.param(look(0, 0), Finding(), id="nothing is open"),
        pytest.param(look(0, 1, sent=1, doubtful=1), Finding("none"), id="the sent one was counted, not the other"),
        pytest.param(look(1, 1, sent=1, doubtful=1), Finding("all"), id="both were counted, and differ"),
        pytest.param(look(0, 1, sent=1), Finding(None, "failed"), id="the device has its own word for the sent one"),
        pytest.param(look(0, 0, sent=1), "missing", id="what was sent is not counted yet"),
        pytest.param(look(1, 0), "another_submitter", id="somebody else sends with this SIM"),
        pytest.param(look(0, 0, 1), "another_submitter", id="somebody else's waits"),
        pytest.param(look(0, 0, taken=1), "missing", id="what was taken is gone"),
        pytest.param(look(-10, -2, doubtful=1), "began_anew", id="the counters began anew"),
        pytest.param(look(1, -1, taken=0, doubtful=1), "began_anew", id="a counter went back"),
    ],
)
def test_what_the_counters_prove(finding: Finding | str, proves: Finding | str) -> None:
    assert finding == proves


FATES = st.lists(st.sampled_from(["absent", "waiting", "sent", "failed"]), max_size=4)


@given(taken=FATES, doubtful=FATES, sent=st.lists(st.sampled_from(["sent", "failed"]), max_size=2))
def test_they_never_prove_what_is_not_so(taken: list[str], doubtful: list[str], sent: list[str]) -> None:
    """Whatever became of each one, even where the device has dropped what it took, or calls failed what was sent."""
    every = taken + doubtful + sent
    counted = Counters(10 + every.count("sent"), 2 + every.count("failed"), every.count("waiting"))
    finding = weigh(ACCOUNT, counted, taken=len(taken), doubtful=len(doubtful), sent=len(sent))
    if not isinstance(finding, Finding):
        assert finding == "missing" and "absent" in taken
        return
    if finding.arrived == "none":
        assert set(doubtful) == {"absent"}
    if finding.arrived == "all":
        assert "absent" not in doubtful
    if finding.fate:
        came = taken + sent + (doubtful if finding.arrived == "all" else [])
        assert set(came) == {finding.fate}
    elif "absent" not in taken and len(set(doubtful)) == 1 and not taken:
        assert finding.arrived, "what can be known is said"
