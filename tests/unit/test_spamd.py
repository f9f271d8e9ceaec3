# SPDX-License-Identifier: GPL-2.0-or-later
"""spamd's answers: whole and well-formed, or an error."""

from __future__ import annotations

import math
import string
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.scanners.spamd import MAX_SYMBOLS, Spamd, SpamdSettings, _ProtocolError

READ = Spamd(SpamdSettings())._read


def answer(
    symbols: bytes = b"A_B,C",
    spam: bytes = b"True ; 7.5 / 5.0",
    status: bytes = b"0 EX_OK",
    length: int | None = None,
) -> bytes:
    size = len(symbols) if length is None else length
    return b"SPAMD/1.1 %s\r\nContent-length: %d\r\nSpam: %s\r\n\r\n%s" % (status, size, spam, symbols)


def test_a_good_answer() -> None:
    result = READ(answer(), cut=False)
    assert (result.status, result.score, result.required) == ("ok", 7.5, 5.0)
    assert result.symbols == ("A_B", "C")
    assert result.detail == ""


def test_no_symbols_and_a_negative_score() -> None:
    result = READ(answer(b"", b"False ; -100.0 / 5.0"), cut=True)
    assert (result.score, result.symbols) == (-100.0, ())
    assert "first" in result.detail


def test_symbols_are_names_and_bounded() -> None:
    result = READ(answer(b"GOOD,bad\r\nX: y,\x1b[2J,," + b"N,".join([b""] * 2000) + b"LAST\r\n"), cut=False)
    assert result.symbols[0] == "GOOD"
    assert set("".join(result.symbols)) <= set("GOODN")
    assert len(result.symbols) == MAX_SYMBOLS


BAD = {
    "empty": b"",
    "not spamd": b"HTTP/1.1 200 OK\r\n\r\n",
    "failure": answer(status=b"75 EX_TEMPFAIL"),
    "cut": answer()[:-1],
    "too long": answer() + b",D",
    "no length": answer().replace(b"Content-length: 5\r\n", b""),
    "no score": answer().replace(b"Spam: True ; 7.5 / 5.0\r\n", b""),
    "two scores": answer().replace(b"Spam:", b"Spam: False ; 0 / 5\r\nSpam:"),
    "nan": answer(spam=b"True ; nan / 5.0"),
    "huge": answer(spam=b"True ; " + b"9" * 400 + b" / 5.0"),
    "no blank line": answer(b"").removesuffix(b"\r\n\r\n"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_an_error(name: str) -> None:
    with pytest.raises(_ProtocolError):
        READ(BAD[name], cut=False)


@given(st.binary() | st.builds(answer, st.binary(), st.binary(), st.binary(), st.none() | st.integers(0, 99)))
@example(answer(status=b"76 Bad \x1b header"))
def test_any_answer_is_read_or_refused(data: bytes) -> None:
    try:
        result = READ(data, cut=False)
    except _ProtocolError as error:
        shown = str(error)
    else:
        shown = "".join(result.symbols)
        assert result.status == "ok"
        assert math.isfinite(result.score)
        assert math.isfinite(result.required)
    assert set(shown) <= set(string.printable) - set("\t\n\r\v\f")


def test_off_by_default() -> None:
    assert Spamd(SpamdSettings()).check(b"x", time.monotonic() + 1).status == "off"


@pytest.mark.parametrize(
    "settings",
    [{"addresses": ["nowhere"]}, {"user": "a\r\nb"}, {"enabled": True, "addresses": []}, {"max_size": 0}],
)
def test_bad_settings(settings: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, SpamdSettings)
