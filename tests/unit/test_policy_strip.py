# SPDX-License-Identifier: GPL-2.0-or-later
"""What is cut out of messages, what stays, and the note that readers find in its place."""

from __future__ import annotations

import random
import re
import tomllib
from dataclasses import replace
from email import policy as email_policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from typing import TYPE_CHECKING

import pytest

from gateway.data import data_dir
from gateway.mail.edits import apply, remainder
from gateway.mail.mime import parse
from gateway.mail.types import Action, Cut, Envelope, Evidence, Mail, Session, Verdict, Versions, new_id
from gateway.policy import rules
from gateway.policy.annotate import annotate
from gateway.policy.decide import STRIPPED, decide, reasons
from gateway.policy.examine import examine, seen_in
from gateway.policy.patterns import RuleError
from gateway.policy.rules import Policy, PolicySettings
from gateway.policy.signals import NAMES
from gateway.policy.strip import StripSettings, cut, load, may_strip
from tests import case as cases

if TYPE_CHECKING:
    from pathlib import Path

GATEWAY = "mx.example.org"
NOTES = data_dir("rules") / "notes.toml"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return policy_of()


def policy_of(**strip: str) -> Policy:
    names = sorted(name for name in NAMES if may_strip(name) and name.startswith("ATTACHMENT_EX"))
    return rules.load(
        data_dir("rules"), PolicySettings(actions=dict.fromkeys(names, "strip"), strip=StripSettings(**strip))
    )


def judged(raw: bytes, policy: Policy) -> tuple[Verdict, bytes]:
    """The verdict on a message, and what is delivered."""
    mail = Mail(new_id(), Session(), Envelope("alice@example.net", ("bob@example.com",)), raw)
    content, evidence = parse(raw), Evidence()
    signals = examine(mail, content, evidence, None, policy)
    verdict = decide(signals, mail, policy, Versions("", "", ""))
    verdict = cut(raw, content, seen_in(content, evidence, policy), verdict, policy.note, GATEWAY)
    edits = annotate(mail, content, evidence, verdict, policy, GATEWAY)
    return verdict, apply(raw, edits, verdict.cuts)


def mixed(*parts: bytes) -> bytes:
    head = b'From: alice@example.net\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    return head + b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def named(name: bytes) -> bytes:
    return b'Content-Type: application/octet-stream; name="' + name + b'"\r\n\r\nnothing'


# ---------------------------------------------------------------- what stays


def leaves(message: Message) -> list[tuple[str, object]]:
    return [
        (part.get_content_type(), part.get_payload(decode=True))
        for part in message.walk()
        if not part.is_multipart()
    ]


@pytest.mark.parametrize("seed", range(150))
def test_other_readers_find_the_rest_as_it_was(policy: Policy, seed: int) -> None:
    """Python's own parser, as a second opinion, sees a note in place of each program and nothing else new."""
    choose = random.Random(seed)
    raw = _composed(choose).as_bytes(policy=email_policy.SMTP)
    verdict, delivered = judged(raw, policy)
    parser = BytesParser(policy=email_policy.default)
    before, after = parser.parsebytes(raw), parser.parsebytes(delivered)
    programs = [part.get_filename() == "setup.exe" for part in before.walk() if not part.is_multipart()]
    assert verdict.action is (Action.STRIP if any(programs) else Action.RELAY)
    found = list(zip(programs, leaves(before), leaves(after), strict=True))
    for program, old, (kind, new) in found:
        if program:
            assert kind == "text/plain"
            assert isinstance(new, bytes)
            assert new.decode().rstrip().endswith(verdict.id)
        else:
            assert (kind, new) == old
    assert len(verdict.cuts) == sum(programs)
    assert not any(a.names for a in parse(delivered).attachments if a.names == ("setup.exe",))


def _composed(choose: random.Random, depth: int = 0) -> EmailMessage:
    message = EmailMessage()
    if depth == 0:
        message["From"], message["Subject"] = "alice@example.net", "files"
    if depth < 3 and choose.random() < 0.4:
        message.make_mixed()
        for _ in range(choose.randint(1, 4)):
            message.attach(_composed(choose, depth + 1))
        return message
    if depth and choose.random() < 0.5:
        data = choose.randbytes(choose.choice((0, 1, 200, 5_000)))
        name = choose.choice(("setup.exe", "report.dat"))
        message.set_content(data, maintype="application", subtype="octet-stream", filename=name)
    else:
        text = choose.choice(("Hello.\n", "Grüße\n" * 50, "\n", "long " * 300 + "\n"))
        message.set_content(text, cte=choose.choice(("8bit", "quoted-printable", "base64")))
    return message


@pytest.mark.parametrize("seed", range(400))
def test_damaged_messages_are_stripped_well_or_not_at_all(policy: Policy, seed: int) -> None:
    """Whatever is broken: what goes on shows no program any more, and reads one way as it did before."""
    choose = random.Random(seed)
    some = [one for one in cases.load() if one.name.startswith(("strip-", "attachment-", "mime-"))]
    damaged = cases.broken(choose.choice(some), choose)
    verdict, delivered = judged(damaged.raw, policy)
    if verdict.action is not Action.STRIP:
        assert not verdict.cuts
        assert delivered == apply(damaged.raw, ()) or verdict.action in (Action.RELAY, Action.TAG)
        return
    content = parse(delivered)
    assert content.certain
    assert "ATTACHMENT_EXECUTABLE" not in {s.signal.name for s in seen_in(content, Evidence(), policy)}
    before = [a.sha256 for a in parse(damaged.raw).attachments]
    assert {a.sha256 for a in content.attachments} <= set(before)


def test_a_note_hides_no_boundary(policy: Policy) -> None:
    """A name that is a delimiter, and one that is a whole part, stay words of the note."""
    raw = mixed(b"\r\nText.", named(b"--b--.exe"), named(b"x\t--b.exe"), b"\r\nBehind.")
    verdict, delivered = judged(raw, policy)
    assert verdict.action is Action.STRIP
    assert [kind for kind, _ in leaves(BytesParser().parsebytes(delivered))] == ["text/plain"] * 4
    assert delivered.count(b"\r\n--b\r\n") == 4


# ---------------------------------------------------------------- what is not cut


@pytest.mark.parametrize(
    "part",
    [
        b"\r\nbegin 644 setup.exe\r\n#86)C\r\n`\r\nend",
        b'Content-Type: multipart/alternative; boundary="c"\r\n\r\n--c\r\n' + named(b"a.exe") + b"\r\n--c--",
        named(b"a.exe").replace(b"nothing", b"--b x\r\nnothing"),
        b"Content-Transfer-Encoding: base64\r\n" + named(b"a.exe").replace(b"nothing", b"bm9===0aGluZw--"),
    ],
)
def test_what_cannot_be_cut_out_is_held(policy: Policy, part: bytes) -> None:
    verdict, _ = judged(mixed(b"\r\nText.", part), policy)
    assert verdict.action is Action.QUARANTINE
    assert "STRIP_UNSAFE" in {c.name for c in verdict.contributions}


def test_a_verdict_that_cannot_be_carried_out_is_a_failure(policy: Policy) -> None:
    """Should `decide` ever strip what is nowhere to be found, the message does not go on whole."""
    raw = mixed(named(b"a.exe"))
    verdict, _ = judged(raw, policy)
    for content, sights in ((parse(b"\r\nText."), ()), (parse(raw), ())):
        with pytest.raises(ValueError, match="to be stripped"):
            cut(raw, content, sights, verdict, policy.note, GATEWAY)
    content = parse(raw)
    found = list(seen_in(content, Evidence(), policy))
    assert cut(raw, content, found, verdict, policy.note, GATEWAY).cuts
    with pytest.raises(ValueError, match="cannot be cut out"):
        cut(raw, replace(content, certain=False), found, verdict, policy.note, GATEWAY)


def test_cuts_stay_within_the_body() -> None:
    raw = b"From: a\r\n\r\n0123456789"
    assert remainder(raw, 11, (Cut(18, 21, "x\n"), Cut(11, 13, ""))) == b"23456x\r\n"
    for wrong in ((Cut(5, 12, ""),), (Cut(12, 99, ""),), (Cut(12, 15, ""), Cut(14, 16, ""))):
        with pytest.raises(ValueError, match="cut"):
            remainder(raw, 11, wrong)
    for start, end, text in ((-1, 2, ""), (3, 2, ""), (1, 2, "\r"), (1, 2, "\0"), (1, 2, "é")):
        with pytest.raises(ValueError, match="within"):
            Cut(start, end, text)


@pytest.mark.parametrize("name", ["VIRUS", "ARCHIVE_LIMIT", "UNPACK", "SPF_FAIL", "MIME_AMBIGUOUS"])
def test_only_attachments_can_be_stripped(name: str) -> None:
    with pytest.raises(RuleError, match=f"{name}: only what is about single attachments"):
        rules.load(data_dir("rules"), PolicySettings(actions={name: "strip"}))


def test_the_whole_is_kept_for_its_reasons(policy: Policy) -> None:
    verdict, _ = judged(mixed(b"\r\nText.", named(b"a.exe")), policy)
    assert verdict.kept == verdict.stripped == verdict.relayed == ("bob@example.com",)
    assert verdict.held == ()
    assert reasons(verdict) == ("ATTACHMENT_EXECUTABLE", STRIPPED)
    [one] = verdict.cuts
    assert re.fullmatch(
        r"a\.exe, application/octet-stream, 7 octets, SHA-256 [0-9a-f]{64}: ATTACHMENT_EXECUTABLE",
        one.parts[0],
    )


# ---------------------------------------------------------------- notes


def test_every_language_says_the_same() -> None:
    notes = tomllib.loads(NOTES.read_text("utf-8"))
    assert set(notes) >= {"en", "de", "es", "fr"}
    for language, note in notes.items():
        assert set(note["why"]) == set(notes["en"]["why"]), language
        assert load(NOTES, StripSettings(language=language), NAMES).text


def test_a_note_in_the_language_of_the_site() -> None:
    _, delivered = judged(mixed(named("Übung.exe".encode())), policy_of(language="de"))
    [(_, text)] = leaves(BytesParser().parsebytes(delivered))
    assert isinstance(text, bytes)
    assert "* Übung.exe (application/octet-stream, 7 B): ein Programm\r\n" in text.decode()


def test_many_names_are_counted(policy: Policy) -> None:
    inner = b"".join(b"--c\r\n" + named(b"%d.exe" % n) + b"\r\n" for n in range(25))
    raw = mixed(
        b'Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary="c"\r\n\r\n'
        + inner
        + b"--c--"
    )
    verdict, delivered = judged(raw, policy)
    [one] = verdict.cuts
    assert len(one.parts) == 10
    assert b"* 9.exe (" in delivered
    assert b"* 10.exe (" not in delivered
    assert b"* and 15 more" in delivered


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no note in 'nl'"),
        ("[nl]\n", "missing required field"),
        ('[nl]\ntext = "{parts}"\npart = ""\nmore = ""\nunnamed = ""\nother = ""\nwhy = {}\n', "must have"),
        ('[nl]\ntext = "{parts}{id}{host}"\npart=""\nmore=""\nunnamed=""\nother=""\nwhy={}\n', "{host}"),
        (
            '[nl]\ntext = "{parts}{id}"\npart=""\nmore=""\nunnamed=""\nother=""\nwhy={SPF="x"}\n',
            "SPF: no such",
        ),
        ("[nl\n", "own.toml"),
    ],
)
def test_a_wrong_note_stops_the_start(tmp_path: Path, text: str, error: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(RuleError) as raised:
        policy_of(language="nl", notes=str(own))
    assert error in str(raised.value)


def test_a_note_of_the_sites_own(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[nl]\ntext = "Weg: {parts}\\n{id}"\npart = "{name}"\nmore = ""\nunnamed = ""\nother = ""\nwhy = {}\n'
    )
    with_own = policy_of(language="nl", notes=str(own))
    _, delivered = judged(mixed(named(b"a.exe")), with_own)
    assert b"\r\n\r\nWeg: a.exe\r\n" in delivered
    own.write_text(own.read_text().replace("Weg", "Verwijderd"))
    assert policy_of(language="nl", notes=str(own)).hash != with_own.hash
