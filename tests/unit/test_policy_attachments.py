# SPDX-License-Identifier: GPL-2.0-or-later
"""Classes of attachments: what the shipped ones hold, and what a site makes of them and of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway.data import data_dir
from gateway.mail.types import (
    Attachment,
    Content,
    Envelope,
    Evidence,
    Mail,
    Member,
    Session,
    Unpacked,
    Versions,
)
from gateway.policy import attachments, rules, unpacked
from gateway.policy.decide import decide
from gateway.policy.examine import examine
from gateway.policy.patterns import RuleError
from gateway.policy.rules import Policy, PolicySettings
from gateway.scanners.unpack.walk import Walker
from tests import bombs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.policy.attachments import Sight

OWN = {"cad": {"extensions": ["DWG", "exe"], "types": ["image/x-dwg"], "declared": ["image/vnd.dwg"]}}
SEEN = {
    "extension": (Attachment(("plan.dwg",), "", "", 1, "", 1), ()),
    "extension in another reading": (Attachment(("plan.txt", "plan.DWG. "), "", "", 1, "", 1), ()),
    "declared type": (Attachment((), "image/vnd.dwg", "", 1, "", 1), ()),
    "detected type": (Attachment(("plan.txt",), "", "image/x-dwg", 1, "", 1), ()),
    "shipped extension": (Attachment(("setup.exe",), "", "", 1, "", 1), ()),
    "nested": (Attachment(("a.zip",), "", "", 1, "", 1), (Member("x/plan.dwg", 1, "", 3),)),
    "nested, detected": (Attachment(("a.zip",), "", "", 1, "", 1), (Member("plan", 1, "image/x-dwg", 1),)),
}


@pytest.mark.parametrize("action", ["none", "tag", "strip", "quarantine", "reject"])
@pytest.mark.parametrize("case", SEEN)
def test_a_class_of_the_sites_own_does_what_the_site_says(case: str, action: str) -> None:
    """By extension, declaration, content and nesting; each to nothing, tag, strip, quarantine or reject."""
    name = "ARCHIVE_CAD" if case.startswith("nested") else "ATTACHMENT_CAD"
    own = _policy({"attachments": {"classes": OWN}, "actions": {name: action}})
    one, members = SEEN[case]
    content = Content((), 0, attachments=(replace(one, part=(0, 1)),))
    mail = Mail("0" * 16, Session(), Envelope("x@example.net", ("bob@example.com",)), b"")
    evidence = Evidence(unpacked=Unpacked("ok", members=members))
    signals = tuple(s for s in examine(mail, content, evidence, None, own) if "CAD" in s.name)
    assert [s.name for s in signals] == [name]
    verdict = decide(signals, mail, own, Versions("", "", ""))
    assert verdict.action.value == {"none": "relay"}.get(action, action)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"attachments": {"classes": {"executable": {}}}}, "ARCHIVE_EXECUTABLE already"),
        ({"attachments": {"classes": {"encrypted": {}}}}, "ARCHIVE_ENCRYPTED already"),
        ({"actions": {"ATTACHMENT_CAD": "strip"}}, "ATTACHMENT_CAD: no such signal"),
        ({"attachments": {"extensions": {"dwg": "cad"}}}, "no class 'cad'"),
    ],
)
def test_a_class_that_cannot_be(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(RuleError, match=error):
        _policy(settings)


def _policy(settings: dict[str, Any]) -> Policy:
    return rules.load(data_dir("rules"), msgspec.convert(settings, PolicySettings))


SHIPPED = {
    "EXECUTABLE": ("setup.exe", "app.jar", "x.msi", "page.hta", "help.chm"),
    "SCRIPT": ("a.js", "a.vbs", "a.ps1", "a.bat", "a.wsf", "a.reg"),
    "SHORTCUT": ("a.lnk", "a.scf", "a.search-ms", "a.desktop"),
    "LINK": ("a.url", "a.webloc", "a.website"),
    "DISK_IMAGE": ("a.iso", "a.img", "a.vhd", "a.vhdx", "a.dmg", "a.wim"),
    "ONENOTE": ("a.one", "a.onepkg"),
    "MACRO": ("a.docm", "a.xlsm", "a.pptm", "a.xlam", "a.slk"),
    "HTML": ("a.html", "a.htm", "a.shtml", "a.mht", "a.svg", "a.xhtml"),
}


@pytest.mark.parametrize("kind", SHIPPED)
def test_what_the_classes_hold(policy: Policy, kind: str) -> None:
    for name in SHIPPED[kind]:
        assert _names(attachments.sights(_content(name), policy.attachments)) == {f"ATTACHMENT_{kind}"}, name
        found = {
            s.signal.name
            for s in unpacked.sights(Unpacked("ok", (Member(name, 1, "", 1),)), policy.attachments)
        }
        assert found == {f"ARCHIVE_{kind}"}, name


def _content(name: str) -> Content:
    return Content((), 0, attachments=(Attachment((name,), "", "", 1, "", 1),))


def _names(sights: Iterable[Sight]) -> set[str]:
    return {sight.signal.name for sight in sights}


def test_beyond_the_bound_a_page_shows_what_others_do(policy: Policy) -> None:
    """So that none of them is left in where such pages are stripped."""
    page = b"<script>" + b"x" * 400_000
    one = Attachment(("a.html",), "text/html", "text/html", len(page), "", 1, page)
    found = list(attachments.sights(Content((), 0, attachments=(one,) * 30), policy.attachments))
    assert [s.attachment for s in found if s.signal.name == "ATTACHMENT_HTML_SCRIPT"] == list(range(30))


def test_each_attachment_has_findings_of_its_own(policy: Policy) -> None:
    """Two archives of one name: what is said of the one is not lost for the other."""
    made = bombs.SAMPLES["encrypted"]()
    found = Walker().walk([(0, "a.zip", made), (1, "a.zip", made), (2, "a.zip", bombs.SAMPLES["zip"]())])
    shown = [(s.signal.name, s.attachment) for s in unpacked.sights(found, policy.attachments)]
    assert [s for s in shown if s[0] == "ARCHIVE_ENCRYPTED"] == [("ARCHIVE_ENCRYPTED", n) for n in (0, 1)]
    assert [s for s in shown if s[0] == "ARCHIVE_EXECUTABLE"] == [("ARCHIVE_EXECUTABLE", n) for n in (0, 1)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return _policy({})
