# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's protocol core: replies at every read size, hostile replies, dot-stuffing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.protocol import (
    LONGEST_TEXT,
    ProtocolError,
    ReplyReader,
    command,
    extensions,
    is_sound,
    stuffed_blocks,
)

DIALOGUE = (
    b"220 mx.example.net ready\r\n"
    b"250-mx.example.net\r\n250-SIZE 1000\r\n250 8bitmime\r\n"
    b"550 5.1.1 no such\x1b[31m user\xff\r\n"
    b"250\r\n"
    b"451-4.7.1 first\n451 4.7.1 second\n"
)


@pytest.mark.parametrize("step", [4096, 128, 16, 1])
def test_replies_at_every_read_size(step: int) -> None:
    reader = ReplyReader()
    found = []
    for start in range(0, len(DIALOGUE), step):
        reader.feed(DIALOGUE[start : start + step])
        while (reply := reader.next()) is not None:
            found.append(reply)
    assert [r.code for r in found] == [220, 250, 550, 250, 451]
    assert extensions(found[1]) == {"SIZE": "1000", "8BITMIME": ""}
    assert str(found[2]) == "550 5.1.1 no such?[31m user?"
    assert found[2].status == "refused"
    assert str(found[4]) == "451 4.7.1 first second"
    assert not reader.pending


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"\r\n",
        b"25\r\n",
        b"999 x\r\n",
        b"150 x\r\n",
        b"2\xb250 x\r\n",
        b"250x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250 " + b"x" * 5000,
        b"250 " + b"x" * 5000 + b"\r\n",
        b"250-again\r\n" * 1000,
        b"250 again\r\n" * 1000,
    ],
)
def test_what_is_no_reply(data: bytes) -> None:
    reader = ReplyReader()
    with pytest.raises(ProtocolError):
        reader.feed(data)


def test_an_enhanced_code_of_another_class_is_text() -> None:
    reader = ReplyReader()
    reader.feed(b"550 2.0.0 fine\r\n")
    reply = reader.next()
    assert reply is not None
    assert (reply.enhanced, reply.text) == ("", "2.0.0 fine")


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_any_bytes_give_bounded_printable_replies(pieces: list[bytes]) -> None:
    reader = ReplyReader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except ProtocolError:
        return
    while (reply := reader.next()) is not None:
        assert 200 <= reply.code < 600
        assert len(reply.text) <= LONGEST_TEXT
        assert reply.text.isascii()
        assert reply.text.isprintable()


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n.\r\n"),
        (b"a.b\r\n..c\r\n", b"a.b\r\n...c\r\n.\r\n"),
    ],
)
def test_dot_stuffing(message: bytes, sent: bytes) -> None:
    assert stuffed(message) == sent


@pytest.mark.parametrize(
    "message", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"a\n\r\n", b"\n", b"\r", b"a\r\n\n.\n", b"a\n\rb"]
)
def test_no_bare_cr_or_lf_is_sent(message: bytes) -> None:
    assert not is_sound(message)


def stuffed(message: bytes, size: int = 131_072) -> bytes:
    return b"".join(stuffed_blocks(message, size))


@given(st.lists(st.sampled_from([b".", b"\r\n", b"a", b"..", b"\x00", b"\xff"]), max_size=40).map(b"".join))
def test_stuffing_is_undone_by_the_rule_of_the_rfc(message: bytes) -> None:
    sent = stuffed(message)
    assert sent == stuffed(message, 1) == stuffed(message, 3)
    assert sent.endswith(b".\r\n")
    lines = sent[:-3].split(b"\r\n")
    assert b"." not in lines  # no line of the message ends the data
    whole = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    assert b"\r\n".join(line.removeprefix(b".") for line in lines) == whole


@pytest.mark.parametrize("argument", ["FROM:<a\r\nRCPT TO:<b>", "FROM:<a\x00b>", "FROM:<\udcff@example.com>"])
def test_commands_take_no_control_characters(argument: str) -> None:
    with pytest.raises(ProtocolError):
        command("MAIL", argument)
