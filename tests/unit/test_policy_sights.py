# SPDX-License-Identifier: GPL-2.0-or-later
"""What policy sees in links, attachments and authors, beyond what the cases show."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data import data_dir
from gateway.mail.types import (
    Attachment,
    Content,
    Dkim,
    Dmarc,
    Envelope,
    Evidence,
    HeaderField,
    Mail,
    Release,
    Session,
    Signal,
    Spf,
    Url,
)
from gateway.policy import attachments, authorship, links, rules
from gateway.policy.attachments import AttachmentSettings
from gateway.policy.authorship import ImpersonationSettings, ProtectedName
from gateway.policy.forwarders import NOBODY
from gateway.policy.links import LinkSettings
from gateway.policy.lookalikes import Lookalikes, _one_edit
from gateway.policy.patterns import RuleError
from gateway.policy.rules import Policy, PolicySettings

CAROL = ProtectedName(names=("Carol Chief",), addresses=("carol@private.example.net", ".example.org"))
SETTINGS = PolicySettings(
    impersonation=ImpersonationSettings(protected=(CAROL,), known_domains=("examples.com",))
)
NOTHING = Evidence()
OWN = ("example.com", ".example.com", "kurz.example")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return rules.load(data_dir("rules"), SETTINGS, (), OWN)


# ---------------------------------------------------------------- links


def seen(policy: Policy, *urls: Url) -> dict[str, Signal]:
    return {s.name: s for s in links.examine(urls, policy.links, policy.authors.own)}


@pytest.mark.parametrize(
    ("target", "shown", "value"),
    [
        ("http://attacker.example/", "https://www.bank.example/login", 1.0),
        ("http://attacker.example/", "www.bank.example", 1.0),
        ("http://attacker.example/", "bank.com", 0.6),
        ("http://attacker.example/", "bank.example", None),  # no such suffix: may be anything
        ("http://attacker.example/", "ASP.NET and more", None),
        ("http://attacker.example/", "notes.txt", None),
        ("http://click.bank.example/", "https://www.bank.example/", None),
        ("http://attacker.example/", "", None),
        ("http://attacker.example/", "." * 300, None),
        ("http://192.0.2.1/", "http://www.bank.example", 1.0),
        ("/relative", "http://www.bank.example", None),
    ],
)
def test_mismatch(policy: Policy, target: str, shown: str, value: float | None) -> None:
    found = seen(policy, Url(target, shown)).get("URL_MISMATCH")
    assert (found.value if found else None) == value


def test_trackers_of_the_site() -> None:
    settings = PolicySettings(links=LinkSettings(trackers=("clicks.example",), shorteners=("sho.example",)))
    own = rules.load(data_dir("rules"), settings)
    assert not seen(own, Url("https://a.clicks.example/", "https://www.bank.example/"))
    assert set(seen(own, Url("https://sho.example/1"))) == {"URL_SHORTENER"}


@given(st.lists(st.builds(Url, st.text(), st.text()), max_size=5))
def test_links_never_raise(urls: list[Url]) -> None:
    list(links.examine(tuple(urls), links.LinkRules(), Lookalikes(OWN)))


def test_many_links_are_quick(policy: Policy) -> None:
    urls = [
        Url(f"https://h{n}.{'a-' * 20}b{n}.example/?u=https%3A%2F%2Fx{n}.example", f"www.s{n}.example")
        for n in range(5000)
    ]
    started = time.process_time()
    seen(policy, *urls)
    assert time.process_time() - started < 0.5


# ---------------------------------------------------------------- look-alikes


@pytest.mark.parametrize(
    "host",
    [
        "examp1e.com",
        "exarnple.com",
        "exmaple.com",
        "exampel.com",
        "eexample.com",
        "xample.com",
        "example.co",
        "mail.example.co",
        "example-secure.com",
        "secureexample.net",
        "my-example-login.info",
        "kurz-login.example",
        "example.com.attacker.example",
        "example-com.attacker.example",
        "www.example.com.attacker.example",
        "xn--exmple-4nf.com",
        "xn--example-.com",  # no valid A-label, and some decode it
        "ехаmрlе.com",
        "exam\u200dple.com",  # "example.com" by IDNA2003, no name by IDNA2008
    ],
)
def test_lookalike(policy: Policy, host: str) -> None:
    assert policy.authors.own.find(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "www.example.com",
        "EXAMPLE.com",
        "example.org",
        "examples.com",  # known
        "www.examples.com",
        "example.shop.example",
        "kurt.example",  # too short to tell
        "kurzum.example",
        "com",
        "",
        "x" * 255,
        "192.0.2.1",
        "attacker.example",
    ],
)
def test_no_lookalike(policy: Policy, host: str) -> None:
    assert policy.authors.own.find(host) == ""


@given(st.text(alphabet="abc", min_size=1, max_size=5), st.text(alphabet="abc", min_size=1, max_size=5))
def test_one_edit(one: str, other: str) -> None:
    edits = {one[:i] + one[i + 1 :] for i in range(len(one))}
    edits |= {one[:i] + c + one[i:] for i in range(len(one) + 1) for c in "abc"}
    edits |= {one[:i] + c + one[i + 1 :] for i in range(len(one)) for c in "abc"}
    edits |= {one[:i] + one[i + 1] + one[i] + one[i + 2 :] for i in range(len(one) - 1)}
    assert _one_edit(one, other) == (other in edits - {one})


@given(st.text(max_size=80))
def test_lookalikes_never_raise(host: str) -> None:
    Lookalikes(OWN).find(host)
    Lookalikes((host,)).find("example.com")


# ---------------------------------------------------------------- attachments


def attached(
    policy: Policy, *names: str, data: bytes = b"text", detected: str = "", declared: str = ""
) -> list[str]:
    one = Attachment(names, declared or "application/octet-stream", detected, len(data), "", 1, data)
    seen = [
        s.signal.name.removeprefix("ATTACHMENT_")
        for s in attachments.sights(_content(attachments=(one,)), policy.attachments)
    ]
    return list(dict.fromkeys(seen))


def _content(**more: object) -> Content:
    return Content(fields=(), body_start=0, **more)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("setup.exe",), ["EXECUTABLE"]),
        (("SETUP.EXE",), ["EXECUTABLE"]),
        (("setup.exe. . ",), ["EXECUTABLE"]),
        (("setup.exe\u200b",), ["EXECUTABLE"]),
        (("ｓetup.ｅxe",), ["EXECUTABLE"]),
        (("a/b\\setup.exe",), ["EXECUTABLE"]),
        (("setup.exe:Zone.Identifier",), ["EXECUTABLE", "NAME_ODD"]),
        (("invoice.pdf.exe",), ["DOUBLE_EXTENSION"]),
        (("archive.tar.js",), ["SCRIPT"]),
        (("readme.txt", "readme.ps1"), ["SCRIPT", "NAME_ODD"]),
        (("report.pdf", "report 1.pdf"), []),
        (("a.zip\0.exe", "a.zip"), ["DOUBLE_EXTENSION", "NAME_ODD"]),
        (("Re: the plan 12:30.txt",), []),
        (("Mr. Smith.",), []),
        (("std::vector.txt",), []),
        (("aux.h",), ["NAME_ODD"]),
        (("x.rtf",), []),
        (("image.img",), ["DISK_IMAGE"]),
        (("notes.one",), ["ONENOTE"]),
        (("deck.pptm",), ["MACRO"]),
        ((), []),
        (("",), []),
    ],
)
def test_names(policy: Policy, names: tuple[str, ...], expected: list[str]) -> None:
    assert attached(policy, *names) == expected


def test_content_against_name(policy: Policy) -> None:
    program = "application/x-dosexec"
    assert attached(policy, "invoice.pdf", detected=program) == ["TYPE_MISMATCH"]
    assert attached(policy, "invoice.001", detected=program) == ["TYPE_MISMATCH"]
    assert attached(policy, "invoice.exe", detected=program) == ["EXECUTABLE"]
    assert attached(policy, "invoice.pdf.exe", detected=program) == ["DOUBLE_EXTENSION"]
    assert attached(policy, "invoice", detected=program) == ["EXECUTABLE"]
    assert attached(policy, detected=program) == ["EXECUTABLE"]
    assert attached(policy, "tool", detected="application/x-elf") == []
    assert attached(policy, "libtool.so", detected="application/x-elf") == []
    assert attached(policy, "photo.jpg", detected="application/x-elf") == ["TYPE_MISMATCH"]
    assert attached(policy, "run.sh", detected="text/x-script") == []
    assert attached(policy, "run.txt", detected="text/x-script") == []
    assert attached(policy, declared="application/x-msdownload") == ["EXECUTABLE"]
    assert attached(policy, "x.pdf", declared="application/x-msdownload") == []


def test_pages(policy: Policy) -> None:
    def page(text: str, name: str = "page.html") -> set[str]:
        return set(attached(policy, name, data=text.encode(), detected="text/html")) - {"HTML"}

    assert page("<p>plain</p>") == set()
    assert page("<FORM><INPUT TYPE=Password>") == {"HTML_PASSWORD"}
    assert page("<form><input name=q type=text> the password</form>") == {"HTML_FORM"}
    assert page("<body OnLoad = 'x()'>") == {"HTML_SCRIPT"}
    assert page("<script>window.location='https://attacker.example'</script>") == {
        "HTML_SCRIPT",
        "HTML_REDIRECT",
    }
    packed = "QUJD" * 1000
    for call in ("atob('{}')", "atob ('{}')", "window['atob']('{}')", "x='{}';self['eval'] (x)"):
        assert page(f"<script>{call.format(packed)}</script>") == {"HTML_SCRIPT", "HTML_SMUGGLING"}
    assert page(f"<script>evaluate('{packed}')</script>") == {"HTML_SCRIPT"}
    assert page("<script>atob(x)</script>") == {"HTML_SCRIPT"}
    assert page(f"<script>document.write(unescape('{'%41' * 400}'))</script>") == {
        "HTML_SCRIPT",
        "HTML_SMUGGLING",
    }
    assert page("<p>x", "page.pdf") == {"HTML_DISGUISED"}
    wide = attached(policy, "p.html", data=b"\xff\xfe" + "<script>".encode("utf-16-le"))
    assert wide == ["HTML", "HTML_SCRIPT"]


def test_hostile_pages_are_quick(policy: Policy) -> None:
    for piece in (
        b"<input ",
        b"<form password ",
        b"http-equiv=   refresh ",
        b"onload ",
        b"A" * 1999 + b" ",
        b"%41",
    ):
        data = b"<script>atob(" + piece * (2_000_000 // len(piece))
        started = time.process_time()
        attached(policy, "x.html", data=data, detected="text/html")
        assert time.process_time() - started < 0.5


def test_the_site_moves_classes() -> None:
    settings = PolicySettings(
        attachments=AttachmentSettings(
            extensions={".ISO": "executable", "jar": "none"}, types={"application/x-iso9660-image": "script"}
        )
    )
    own = rules.load(data_dir("rules"), settings)
    assert attached(own, "x.iso") == ["EXECUTABLE"]
    assert attached(own, "x.jar") == []
    assert attached(own, "x", detected="application/x-iso9660-image") == ["SCRIPT"]
    wrong = PolicySettings(attachments=AttachmentSettings(extensions={"iso": "executables"}))
    with pytest.raises(RuleError, match="no class 'executables'"):
        rules.load(data_dir("rules"), wrong)


def test_every_class_has_signals(policy: Policy) -> None:
    for name in policy.attachments.order:
        assert {f"ATTACHMENT_{name.upper()}", f"ARCHIVE_{name.upper()}"} <= set(policy.weights)


# ---------------------------------------------------------------- authors


def author(
    policy: Policy,
    display: str,
    address: str,
    *,
    reply_to: str = "",
    evidence: Evidence = NOTHING,
    sender: str = "x@example.net",
) -> set[str]:
    fields = (HeaderField("Reply-To", f"Reply-To: {reply_to}".encode()),) if reply_to else ()
    content = Content(fields=fields, body_start=0, from_addresses=((display, address),), from_fields=1)
    mail = Mail("0" * 16, Session(client_ip="192.0.2.1"), Envelope(sender, ("bob@example.com",)), b"")
    return {
        f"{s.name}?" if s.state == "error" else s.name
        for s in authorship.examine(mail, content, evidence, policy.authors, policy.forwarders)
    }


@pytest.mark.parametrize(
    ("display", "address", "hit"),
    [
        ("Carol Chief", "x@attacker.example", True),
        ("CHIEF, Carol", "x@attacker.example", True),
        ("Carol  Chief (via phone)", "x@attacker.example", True),
        ("Prof. Carol Chief", "x@attacker.example", True),
        ("Сarol Сhief", "x@attacker.example", True),
        ("Carol", "x@attacker.example", False),
        ("Carola Chief", "x@attacker.example", False),
        ("Carol Chief", "carol@private.example.net", False),
        ("Carol Chief", "other@private.example.net", True),
        ("Carol Chief", "carol@list.example.org", False),
        ("Carol Chief", "carol@example.com", False),
        ("Support www.example.com", "x@attacker.example", True),
        ("example.comparison", "x@attacker.example", False),
        ("", "x@attacker.example", False),
    ],
)
def test_protected_names(policy: Policy, display: str, address: str, hit: bool) -> None:
    assert ("FROM_PROTECTED_NAME" in author(policy, display, address)) == hit


def test_shown_addresses(policy: Policy) -> None:
    assert author(policy, "boss@bank.example", "x@attacker.example") == {"FROM_NAME_ADDRESS"}
    assert author(policy, "sales@shop.example", "news@mail.shop.example") == set()
    assert author(policy, "boss@gmail.com", "other@gmail.com") == {"FROM_NAME_ADDRESS"}


def test_own_domain_needs_proof(policy: Policy) -> None:
    address = "bob@staff.example.com"
    asked = (Spf("mailfrom", "example.net", "pass"),)
    aligned = (Dkim("pass", "example.com"),)
    assert author(policy, "Bob", address) == set()  # nothing was asked
    assert author(policy, "Bob", address, evidence=Evidence(spf=asked)) == {"FROM_OWN_DOMAIN"}
    assert author(policy, "Bob", address, evidence=Evidence(spf=asked, dkim=aligned)) == set()
    in_part = (Dkim("pass", "example.com", covers_all=False),)
    assert author(policy, "Bob", address, evidence=Evidence(spf=asked, dkim=in_part)) == {"FROM_OWN_DOMAIN"}
    assert author(policy, "Bob", address, evidence=Evidence(spf=asked, dmarc=Dmarc("pass"))) == set()
    failed = Evidence(spf=(Spf("mailfrom", "example.net", "temperror"),))
    assert author(policy, "Bob", address, evidence=failed) == {"FROM_OWN_DOMAIN?"}
    released = Evidence(spf=asked, release=Release("0" * 16, ()))
    assert author(policy, "Bob", address, evidence=released) == set()


def test_answers(policy: Policy) -> None:
    free = "dave@gmail.com"
    assert author(policy, "Dave", "dave@shop.example", reply_to=free) == {"REPLY_TO_FREEMAIL"}
    assert author(policy, "Dave", "dave@yahoo.com", reply_to=free) == set()
    assert author(policy, "Dave", "dave@shop.example", reply_to="x@other.example") == set()
    assert author(policy, "Dave", "dave@shop.example", reply_to="x@mail.shop.example") == set()
    found = author(policy, "Carol Chief", "x@attacker.example", reply_to="x@other.example")
    assert found == {"FROM_PROTECTED_NAME", "REPLY_TO_ELSEWHERE"}
    assert author(policy, "Dave", "dave@shop.example", reply_to="x@examp1e.com") == {"FROM_LOOKALIKE"}
    assert author(policy, "Dave", "dave@shop.example", sender="x@examp1e.com") == {"FROM_LOOKALIKE"}


def test_a_name_without_letters_is_refused() -> None:
    wrong = PolicySettings(impersonation=ImpersonationSettings(protected=(ProtectedName(names=("123",)),)))
    with pytest.raises(RuleError, match="not a name"):
        rules.load(data_dir("rules"), wrong)


@given(st.text(max_size=300), st.text(max_size=60), st.text(max_size=60))
def test_authors_never_raise(display: str, address: str, reply_to: str) -> None:
    known = authorship.authors(OWN, SETTINGS.impersonation, frozenset(("gmail.com",)))
    field = HeaderField("Reply-To", b"Reply-To: " + reply_to.encode("utf-8", "surrogatepass"))
    content = Content(fields=(field,), body_start=0, from_addresses=((display, address),), from_fields=1)
    mail = Mail("0" * 16, Session(), Envelope(address, ()), b"")
    list(authorship.examine(mail, content, Evidence(), known, NOBODY))
