# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart host's parts without I/O: commands, message data, XCLIENT attributes, Received."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.protocol import stuffed_blocks
from gateway.mail.types import Envelope, Mail, Session, Tls
from gateway.smarthost.commands import (
    CommandError,
    bdat_command,
    check_address,
    helo_name,
    is_http,
    mail_command,
    rcpt_command,
    split_line,
)
from gateway.smarthost.data import ChunkReader, DataReader
from gateway.smarthost.trace import received_count, received_field
from gateway.smarthost.xclient import XCLIENT, XFORWARD, Client, attributes, merged

LIMIT = 1000


@pytest.mark.parametrize(
    ("rest", "sender", "options"),
    [
        ("FROM:<>", "", ()),
        ("from: <>", "", ()),
        ("FROM:<a@example.com>", "a@example.com", ()),
        ("FROM:a@example.com", "a@example.com", ()),
        ("FROM:<a@example.com> SIZE=1000 BODY=8bitmime", "a@example.com", ("SIZE=1000", "BODY=8BITMIME")),
        ("FROM:<ü@bücher.example> SMTPUTF8", "ü@bücher.example", ("SMTPUTF8",)),
        ('FROM:<"a >b"@example.com>', '"a >b"@example.com', ()),
        ('FROM:<"a\\"@b"@example.com>', '"a\\"@b"@example.com', ()),
        ("FROM:<a..b.@example.com>", "a..b.@example.com", ()),
        ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]", ()),
        ("FROM:<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", ()),
        ("FROM:<a@xn--bcher-kva.example>", "a@xn--bcher-kva.example", ()),
    ],
)
def test_mail(rest: str, sender: str, options: tuple[str, ...]) -> None:
    found = mail_command(rest, extended=True, size_limit=LIMIT)
    assert (found.sender, found.options) == (sender, options)


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("", 500),
        ("FROM:", 500),
        ("LALA: <>", 500),
        ("FROM <a@b>", 500),
        ("FROM:<pepe>", 501),
        ("FROM:<a@b", 501),
        ("FROM:<a@b>x", 501),
        ("FROM:<a@b>SIZE=1", 501),
        ("FROM:<(any@legit.example>", 501),
        ("FROM:<any@legit.example(>", 501),
        ("FROM:<@relay.example:a@example.com>", 501),
        ("FROM:<a@b@c>", 501),
        ("FROM:<<a@b>>", 501),
        ('FROM:<"a@b>', 501),
        ('FROM:<"a"b@c>', 501),
        ("FROM:<a b@c>", 501),
        ("FROM:a b@c", 501),
        ("FROM:<a@>", 501),
        ("FROM:<@b>", 501),
        ("FROM:<a@b..c>", 501),
        ("FROM:<a@-b>", 501),
        ("FROM:<a@b.>", 501),
        ("FROM:<a@xn--->", 501),
        ("FROM:<a@[192.0.2]>", 501),
        ("FROM:<a@[2001:db8::1]>", 501),
        ("FROM:<a@[x]>", 501),
        (f"FROM:<{'a' * 300}@b>", 501),
        (f"FROM:<a@{'b' * 64}.example>", 501),
        ("FROM:<ü@b>", 553),
        ("FROM:<a@ü>", 553),
        ("FROM:<a@b> SIZE=", 501),
        ("FROM:<a@b> SIZE=x", 501),
        ("FROM:<a@b> SIZE=-1", 501),
        ("FROM:<a@b> SIZE=٣", 501),
        ("FROM:<a@b> SIZE=999999999999999999999", 501),
        ("FROM:<a@b> SIZE=99999999999999999999", 552),
        ("FROM:<a@b> SIZE=1001", 552),
        ("FROM:<a@b> SIZE=1 SIZE=2", 501),
        ("FROM:<a@b> BODY=BINARYMIME", 501),
        ("FROM:<a@b> BODY", 501),
        ("FROM:<a@b> SMTPUTF8=1", 501),
        ("FROM:<a@b> AUTH=<>", 555),
        ("FROM:<a@b> AUTH=x", 555),
        ("FROM:<a@b> RET=FULL", 555),
        ("FROM:<a@b> a@c", 501),
    ],
)
def test_bad_mail(rest: str, code: int) -> None:
    with pytest.raises(CommandError) as error:
        mail_command(rest, extended=True, size_limit=LIMIT)
    assert error.value.reply.code == code


def test_parameters_need_ehlo() -> None:
    with pytest.raises(CommandError) as error:
        mail_command("FROM:<a@b> SIZE=1", extended=False, size_limit=LIMIT)
    assert error.value.reply.code == 555


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ("TO:", 500),
        ("LALA: <>", 500),
        ("TO:<>", 501),
        ("TO:<pepe>", 501),
        ("TO:<a@b>,<c@d>", 501),
        ("TO:<a@b> NOTIFY=NEVER", 555),
        ("TO:<a@b> ORCPT=rfc822;a+0D+0Ab", 555),
    ],
)
def test_bad_rcpt(rest: str, code: int) -> None:
    with pytest.raises(CommandError) as error:
        rcpt_command(rest, extended=True)
    assert error.value.reply.code == code


OFFERED = frozenset(("RET", "ENVID", "REQUIRETLS", "AUTH"))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("RET=hdrs ENVID=QQ314159", ("RET=HDRS", "ENVID=QQ314159")),
        ("ENVID=a+2Bb+3D+20", ("ENVID=a+2Bb+3D+20",)),
        ("REQUIRETLS BODY=8bitmime", ("REQUIRETLS", "BODY=8BITMIME")),
        ("AUTH=<>", ()),
        ("AUTH=e+3Dmc2@example.com SIZE=9", ("SIZE=9",)),
        ("RET=ALL", None),
        ("RET", None),
        ("ENVID=", None),
        (f"ENVID={'a' * 101}", None),
        ("ENVID=a+0D+0AX-Evil:+20yes", None),
        ("ENVID=a+1B", None),
        ("ENVID=a+7F", None),
        ("ENVID=a+80", None),
        ("ENVID=a+2b", None),
        ("ENVID=a+2", None),
        ("REQUIRETLS=1", None),
        ("AUTH=+0D", None),
        ("AUTH", None),
    ],
)
def test_parameters_of_mail_that_are_offered(words: str, options: tuple[str, ...] | None) -> None:
    def read() -> tuple[str, ...]:
        return mail_command(f"FROM:<a@b> {words}", extended=True, size_limit=LIMIT, offered=OFFERED).options

    if options is not None:
        assert read() == options
        return
    with pytest.raises(CommandError) as error:
        read()
    assert error.value.reply.code == 501


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("NOTIFY=never", ("NOTIFY=NEVER",)),
        ("NOTIFY=success,Delay,FAILURE", ("NOTIFY=SUCCESS,DELAY,FAILURE",)),
        ("ORCPT=rfc822;Bob+2Bx@Example.com", ("ORCPT=rfc822;Bob+2Bx@Example.com",)),
        ("ORCPT=utf-8;b\\x{FC}@example.com", ("ORCPT=utf-8;b\\x{FC}@example.com",)),
        ("ORCPT=utf-8;bü@example.com", ("ORCPT=utf-8;b\\x{FC}@example.com",)),
        ("NOTIFY=", None),
        ("NOTIFY=NEVER,FAILURE", None),
        ("NOTIFY=FAILURE,FAILURE", None),
        ("NOTIFY=OFTEN", None),
        ("ORCPT=a@b", None),
        ("ORCPT=;a@b", None),
        ("ORCPT=rfc822;", None),
        ("ORCPT=rfc822;a+0D+0Ab", None),
        ("ORCPT=rfc822;ü@b", None),
        ("ORCPT=utf-8;a\\x{0A}b", None),
        ("ORCPT=utf-8;a+0Ab", None),
        (f"ORCPT=rfc822;{'a' * 500}", None),
    ],
)
def test_parameters_of_rcpt_with_dsn(words: str, options: tuple[str, ...] | None) -> None:
    if options is not None:
        found = rcpt_command(f"TO:<a@b> {words}", extended=True, dsn=True)
        assert (found.recipient, found.options) == ("a@b", options)
        return
    with pytest.raises(CommandError) as error:
        rcpt_command(f"TO:<a@b> {words}", extended=True, dsn=True)
    assert error.value.reply.code == 501


@given(st.text(max_size=80), st.booleans())
def test_any_argument_gives_a_value_or_a_reply(text: str, extended: bool) -> None:
    for prefix in ("", "FROM:", "FROM:<", "FROM:<a@b> "):
        try:
            found = mail_command(prefix + text, extended=extended, size_limit=LIMIT, offered=OFFERED)
        except CommandError:
            continue
        assert not set(found.sender) & set("\r\n\0")
        if found.sender:
            check_address(found.sender, smtputf8=True, enhanced="5.1.7")


@pytest.mark.parametrize(
    "line", [b"MAIL\0FROM:<a@b>", b"NOOP \x1b[2J", b"NOOP \xff", b"NOOP\ta", b"\x16\x03\x01"]
)
def test_lines_that_are_no_command(line: bytes) -> None:
    with pytest.raises(CommandError):
        split_line(line)


def test_web_requests() -> None:
    assert all(
        is_http(*split_line(b)) for b in (b"GET / HTTP/1.1", b"POST /x", b"CONNECT a:80", b"x y HTTP/1.1")
    )
    assert not is_http(*split_line(b"MAIL FROM:<get@example.com>"))


@pytest.mark.parametrize("rest", ["", "a b", "ü", "a" * 256])
def test_bad_helo(rest: str) -> None:
    with pytest.raises(CommandError):
        helo_name(rest)


# ---------------------------------------------------------------- message data


def read(sent: bytes, step: int, limit: int = 10_000) -> tuple[DataReader, int]:
    """Feed `sent` in chunks until the end is found; the reader and what was not fed."""
    reader = DataReader(limit)
    for start in range(0, len(sent), step):
        if reader.feed(sent[start : start + step]):
            return reader, len(sent) - start - step
    return reader, -1


STEPS = [4096, 16, 7, 3, 2, 1]
SOUND = [b"", b"a\r\n", b".\r\n", b"..\r\n.a\r\n", b"\r\n\r\n", b"a\r\n.\r\nb\r\n", b"x" * 5000 + b"\r\n"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("message", SOUND)
def test_a_message_at_every_chunk_size(message: bytes, step: int) -> None:
    sent = b"".join(stuffed_blocks(message)) + b"QUIT\r\n"
    reader, unfed = read(sent, step)
    assert unfed >= -step
    assert reader.fault == ""
    assert reader.message() == message
    assert reader.rest == b"QUIT\r\n"[: len(reader.rest)]
    assert len(reader.rest) + max(unfed, 0) == len(b"QUIT\r\n")


# What some server or other has taken for the end of the data.
SMUGGLED_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n.\r",
    b"\r.\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\n",
    b"\r\n\n.\r\n",
    b"\n\r\n.\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\r\x00\n",
    b"\x00\r\n.\r\n",
    b"\n\n.\r\n",
    b"\r\n..\n",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("end", SMUGGLED_ENDS)
def test_no_other_end_and_no_sound_message_with_one(end: bytes, step: int) -> None:
    sent = b"Subject: x\r\n\r\nbody" + end + b"MAIL FROM:<evil@example.com>\r\n"
    reader, _ = read(sent + b"\r\n.\r\n", step)
    assert reader.fault in ("line", "nul")
    with pytest.raises(AssertionError):
        reader.message()


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\0"]), max_size=30).map(b"".join),
    st.integers(1, 9),
)
def test_any_chunking_reads_the_same(data: bytes, step: int) -> None:
    whole, pieces = DataReader(20), DataReader(20)
    ended = whole.feed(data)
    found = False
    for start in range(0, len(data), step):
        found = pieces.feed(data[start : start + step])
        if found:
            break
    assert found == ended
    assert pieces.fault == whole.fault or {pieces.fault, whole.fault} <= {"line", "nul"} or not ended
    end = (b"\r\n" + data).find(b"\r\n.\r\n")
    assert ended == (end >= 0)
    if ended and not whole.fault:
        assert whole.message() == pieces.message()
        body = data[:end]
        assert body.count(b"\r") == body.count(b"\n") == body.count(b"\r\n")
        assert b"\0" not in body


def test_too_big_is_found_without_keeping_it() -> None:
    reader = DataReader(1000)
    for _ in range(100):
        assert not reader.feed(b"x" * 98 + b"\r\n")
        assert reader.held < 1200
    assert reader.feed(b".\r\n")
    assert reader.fault == "size"


def test_a_bare_line_feed_counts_in_what_is_too_big_already() -> None:
    reader = DataReader(10)
    faults = []
    for chunk in (b"x" * 98 + b"\r\n", b".\nHELP\r\n"):
        assert not reader.feed(chunk)
        faults.append(reader.fault)
    assert faults == ["size", "line"]


# ---------------------------------------------------------------- XCLIENT, XFORWARD


def test_attributes() -> None:
    first = attributes("NAME=mx.example.net ADDR=IPv6:2001:DB8::1 PORT=25", XFORWARD)
    assert first == Client(ip="2001:db8::1", name="mx.example.net")
    second = attributes("helo=a+2Bb name=[UNAVAILABLE] PROTO=ESMTP", XFORWARD)
    assert merged(first, second) == Client(ip="2001:db8::1", name="", helo="a+b")
    assert attributes("LOGIN=carol ADDR=[UNAVAILABLE]", XCLIENT) == Client(ip="", login="carol")
    assert attributes("ADDR=::ffff:192.0.2.1", XCLIENT).ip == "192.0.2.1"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "NAME",
        "FOO=1",
        "LOGIN=x",
        "ADDR=300.1.1.1",
        "ADDR=x",
        "HELO=a+0D+0Ab",
        "HELO=ü",
        "HELO=a+0",
        "NAME=a NAME=b",
    ],
)
def test_bad_attributes(rest: str) -> None:
    with pytest.raises(CommandError):
        attributes(rest, XFORWARD)


# ---------------------------------------------------------------- Received


def mail(session: Session, *recipients: str, options: tuple[str, ...] = ()) -> Mail:
    return Mail("0123456789ABCDEF", session, Envelope("a@b", recipients, options), b"", 1_700_000_000.0)


@pytest.mark.parametrize(
    ("session", "extended", "options", "parts"),
    [
        (
            Session("192.0.2.1", "", "c.example.net"),
            True,
            (),
            ["from c.example.net (unknown [192.0.2.1])", "with ESMTP id"],
        ),
        (Session("2001:db8::1", "n.example", "c"), True, (), ["from c (n.example [IPv6:2001:db8::1])"]),
        (Session("192.0.2.1", "", "c"), False, (), ["with SMTP id 0123456789ABCDEF"]),
        (
            Session("192.0.2.1", "", "c", tls=Tls("TLSv1.3", "X_Y", 256)),
            True,
            (),
            ["with ESMTPS id", "(using TLSv1.3 with cipher X_Y (256 bits))"],
        ),
        (Session("192.0.2.1", "", "c", login="l"), True, (), ["with ESMTPA id"]),
        (Session("192.0.2.1", "", "c"), True, ("SMTPUTF8",), ["with UTF8SMTP id"]),
        (
            Session("", "", "x) by evil;\x1b(\r\nX: y"),
            True,
            (),
            ["from x??by?evil?????X:?y (unknown unknown)"],
        ),
    ],
)
def test_received(session: Session, extended: bool, options: tuple[str, ...], parts: list[str]) -> None:
    field = received_field(
        mail(session, "u@example.com", options=options), "gw.example.com", extended=extended
    )
    assert field.endswith(b"\r\n")
    assert all(line.startswith(b"\t") for line in field.split(b"\r\n")[1:-1])
    unfolded = field.decode().replace("\r\n\t", " ")
    assert all(part in unfolded for part in parts), unfolded
    assert "for <u@example.com>;" in unfolded


def test_received_names_no_recipient_among_several() -> None:
    assert b"for <" not in received_field(mail(Session("192.0.2.1"), "a@x", "b@x"), "gw", extended=True)


def test_received_count() -> None:
    assert (
        received_count(b"Received: a\r\nRECEIVED : b\r\nX-Received: c\r\n received: d\r\n\r\nReceived: e\r\n")
        == 2
    )


# ---------------------------------------------------------------- chunks


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\0"]), max_size=30).map(b"".join),
    st.integers(1, 9),
)
def test_chunks_of_any_size_give_the_same(data: bytes, step: int) -> None:
    whole, pieces = ChunkReader(40), ChunkReader(40)
    whole.feed(data)
    for start in range(0, len(data), step):
        pieces.feed(data[start : start + step])
    whole.end()
    pieces.end()
    sound = data.replace(b"\r\n", b"")
    assert (whole.fault == "") == (b"\r" not in sound and b"\n" not in sound and b"\0" not in data)
    assert (whole.fault == "") == (pieces.fault == "")
    if not whole.fault:
        assert whole.message() == pieces.message()
        assert whole.message().startswith(data)
        assert not whole.message() or whole.message().endswith(b"\r\n")


def test_chunks_that_are_too_much_are_not_kept() -> None:
    reader = ChunkReader(1000)
    reader.feed(b"x" * 1000)
    assert (reader.fault, reader.held) == ("", 1000)
    reader.feed(b"x" * 10_000)
    assert (reader.fault, reader.held) == ("size", 0)
    reader.feed(b"\n")
    assert reader.held == 0


@pytest.mark.parametrize("rest", ["", "x", "-1", "1 FIRST", "1LAST", "1 LAST x", "9" * 21, "٣", "0x10"])
def test_bad_bdat(rest: str) -> None:
    with pytest.raises(CommandError):
        bdat_command(rest)


def test_bdat() -> None:
    assert bdat_command("0 last") == (0, True)
    assert bdat_command("86") == (86, False)
