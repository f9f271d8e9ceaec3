# SPDX-License-Identifier: GPL-2.0-or-later
"""MTA-STS: records and policy files, and the hosts that a policy allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tls.mta_sts import LONGEST, Policy, PolicyError, read_policy, record_of


@pytest.mark.parametrize(
    ("values", "ident"),
    [
        ([b"v=STSv1; id=1a;"], "1a"),
        ([b"v=spf1 -all", b"v=STSv1; id=2"], "2"),
        ([b"v=STSv10; id=3", b"v=STSv1; id=2"], "2"),
        ([b"v=STSv1; id=1", b"v=STSv1; id=2"], None),
        ([b"v=STSv1; id=1", b"v=STSv1"], None),
        ([b"v=STSv1; id=\xff"], None),
        ([b" v=STSv1; id=1"], None),
        ([b"id=1; v=STSv1;"], None),
        ([], None),
    ],
)
def test_there_is_one_record_or_none(values: list[bytes], ident: str | None) -> None:
    assert record_of(values) == ident


def test_a_policy_is_read() -> None:
    data = b"version: STSv1\r\nmode: enforce\r\nmx: MX.example.com\r\nmx: *.example.net\r\nmax_age: 86400\r\n"
    assert read_policy(data) == Policy("enforce", 86_400, ("mx.example.com", "*.example.net"))
    assert read_policy(b"version:STSv1\nmode:none\nmode:enforce\nmax_age:5\nmax_age:7") == Policy("none", 5)


@pytest.mark.parametrize(
    "data",
    [
        b"version: STSv1\nmode: none\nmax_age: 31557601",
        b"version: STSv1\nmode: none\nmax_age: -1",
        b"version: STSv1\nmode: none\n\nmax_age: 1",
        b"version: STSv1\rmode: none\rmax_age: 1",
        b"version: STSv1\nmode: none\nmax_age: 1\nx: \x1b[2J",
        b"version: STSv1\nmode: none\nmax_age: 1\nx: \xff",
        b"version: STSv1\nmode: none\nmax_age: 1\nx: ".ljust(LONGEST + 1, b"y"),
        b"version: STSv1\nmode: enforce\nmax_age: 1\n" + b"mx: a.b\n" * 1_001,
        b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: .example.com",
        b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: a.*.example.com",
        b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: 192.0.2.1/24",
    ],
)
def test_what_is_no_policy(data: bytes) -> None:
    with pytest.raises(PolicyError):
        read_policy(data)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mx.example.com", True),
        ("MX.Example.COM.", True),
        ("mx2.example.com", False),
        ("a.example.net", True),
        ("a.b.example.net", False),
        ("example.net", False),
        ("*.example.net", True),  # no host has this name; nothing can be proved of it either
        ("", False),
        ("net", False),
    ],
)
def test_hosts_that_a_policy_allows(host: str, allowed: bool) -> None:
    assert Policy("enforce", 1, ("mx.example.com", "*.example.net")).allows(host) == allowed


@given(st.text() | st.from_regex(r"v=STSv1;.*"))
def test_no_record_is_a_surprise(text: str) -> None:
    record_of([text.encode("utf-8", "surrogatepass")])


@given(st.binary())
def test_no_policy_is_a_surprise(data: bytes) -> None:
    try:
        read_policy(b"version: STSv1\nmode: testing\nmx: a\n" + data)
    except PolicyError:
        return
