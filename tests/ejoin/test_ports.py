"""Every notation of a port that devices and documents use, read and printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.ejoin.ports import MAX_PORT, Port, parse, parse_range


@pytest.mark.parametrize(
    ("notation", "port"),
    [
        ("4", Port(4)),
        (4, Port(4)),
        (" 12 ", Port(12)),
        ("1A", Port(1, 1)),
        ("32d", Port(32, 4)),
        ("5H", Port(5, 8)),
        ("1.01", Port(1, 1)),
        ("32.04", Port(32, 4)),
        ("13.3", Port(13, 3)),
        ("1.sp128.016", Port(1, 16, "sp128")),
        ("12.sp256.101", Port(12, 101, "sp256")),
        ('"61.01"', Port(61, 1)),
        ("1024", Port(1024)),
    ],
)
def test_one_port(notation: str | int, port: Port) -> None:
    assert parse(notation) == port


@pytest.mark.parametrize(
    "notation", ["", "A1", "0", "1025", "-1", "1.", "1.1.1", "1.sp", "1AA", "1-4", "one", "12345", "1.1234", "1.sp1.x"]
)
def test_what_is_no_port_says_so(notation: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse(notation)


@given(
    st.builds(Port, st.integers(1, MAX_PORT), st.integers(0, 999))
    | st.builds(Port, st.integers(1, MAX_PORT), st.integers(1, 9999), st.sampled_from(["sp1", "sp128"]))
)
def test_a_printed_port_is_read_again(port: Port) -> None:
    assert parse(str(port)) == port


def test_ports_are_printed_as_devices_print_them() -> None:
    assert [str(port) for port in (Port(4), Port(1, 2), Port(1, 16, "sp128"))] == ["4", "1.02", "1.sp128.016"]


@pytest.mark.parametrize(
    ("notation", "ports"),
    [
        ("1-4,7", [Port(1), Port(2), Port(3), Port(4), Port(7)]),
        (3, [Port(3)]),
        ("3, 1.01 ,2B", [Port(3), Port(1, 1), Port(2, 2)]),
        ("1-3,2,3-4", [Port(1), Port(2), Port(3), Port(4)]),
        ("5-5", [Port(5)]),
        ("1.02-3.02", [Port(1, 2), Port(2, 2), Port(3, 2)]),
    ],
)
def test_a_range(notation: str | int, ports: list[Port]) -> None:
    assert parse_range(notation) == tuple(ports)


@pytest.mark.parametrize("notation", ["", "4-1", "0-3", "1-1025", "1,,2", "1-4-7", "all", "1.01-4.02", "1.01-4"])
def test_what_is_no_range_says_so(notation: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_range(notation)
