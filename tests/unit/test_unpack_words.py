# SPDX-License-Identifier: GPL-2.0-or-later
"""The words and links of documents: those that a reader sees, within bounds, and no entity expanded."""

from __future__ import annotations

import time

import pytest

from gateway.scanners.unpack import words
from gateway.scanners.unpack.budget import Limits
from gateway.scanners.unpack.walk import Walker
from tests import bombs
from tests.bombs import document, pdf, pdf_stream, zipped

RELATIONS = "word/_rels/document.xml.rels"
PARAGRAPHS = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e "expanded">]>'
    b"<w:document><w:p><w:r><w:t>Dear </w:t></w:r><w:r><w:t>Bob &amp; Carol,</w:t></w:r></w:p>"
    b"<w:p><w:t>pay &#163;5&e;</w:t><w:br/><w:t>now</w:t></w:p></w:document>"
)
PAGE = b"BT /F1 12 Tf 72 700 Td (Dear \\(all\\)) Tj T* [(In)-20(voice)-300(due)] TJ ET"


def read(data: bytes, name: str = "a.docx", limits: Limits = Limits()) -> tuple[str, tuple[str, ...]]:  # noqa: B008 - frozen
    walker = Walker(limits)
    result = walker.walk([(0, name, data)])
    return walker.text, tuple(url.target for url in result.links)


def test_word() -> None:
    link = bombs.relations("hyperlink", "https://example.net/?a=1&amp;b=2")
    data = document({"word/document.xml": PARAGRAPHS, RELATIONS: link}, "word/styles.xml")
    assert read(data) == ("Dear Bob & Carol,\npay £5&e;\nnow", ("https://example.net/?a=1&b=2",))


def test_excel_and_powerpoint() -> None:
    shared = b"<sst><si><t>Name</t></si><si><t>Sum</t></si></sst>"
    sheet = b"<worksheet><c t='s'><v>17</v></c></worksheet>"
    assert read(document({"xl/sharedStrings.xml": shared, "xl/worksheets/sheet1.xml": sheet}))[0] == (
        "Name\nSum"
    )
    slide = b"<p:sld><a:p><a:t>Title</a:t></a:p><a:p><a:t>Point</a:t></a:p></p:sld>"
    assert read(document({"ppt/slides/slide1.xml": slide}), "a.pptx")[0] == "Title\nPoint"


def test_open_document() -> None:
    content = b"<o><text:h>Head</text:h><text:p>See <text:a xlink:href='https://example.org/'>it</text:a></text:p></o>"
    data = zipped([("content.xml", content), ("META-INF/manifest.xml", b"<m/>")])
    assert read(data, "a.odt") == ("Head\nSee it", ("https://example.org/",))


def test_pdf() -> None:
    annotation = b"<< /Subtype /Link /A << /S /URI /URI (https://example.net/a\\(b\\)) >> >>"
    data = pdf(
        pdf_stream(PAGE), annotation, pdf_stream(b"<< /URI (https://example.org) >>", b"/Type /ObjStm")
    )
    text, links = read(data, "a.pdf")
    assert text == "Dear (all)\nInvoice due"
    assert set(links) == {"https://example.net/a(b)", "https://example.org"}


@pytest.mark.parametrize(
    "data",
    [
        pdf(pdf_stream(PAGE), b"<< /URI (https://example.net) >>", b"<< /Encrypt 4 0 R >>"),
        pdf(pdf_stream(b"BT <0003001200340045> Tj (\x01\x02\x03\x90\x91) Tj ET")),
        pdf(pdf_stream(PAGE, b"/Subtype /Image")),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2_000),
    ],
    ids=["encrypted", "glyphs by number", "picture", "Word of old"],
)
def test_what_has_no_words(data: bytes) -> None:
    assert read(data, "a.pdf") == ("", ())


def test_text_is_bounded() -> None:
    data = document({"word/document.xml": b"<w:p>" + b"word " * 100_000 + b"</w:p>"}, "word/a.xml")
    assert len(read(data)[0]) == Limits().text
    assert read(data, limits=Limits(text=0)) == ("", ())
    links = b"".join(bombs.relations("hyperlink", f"https://example.net/{n}") for n in range(300))
    assert len(read(document({RELATIONS: links}))[1]) == 100


@pytest.mark.parametrize(
    "markup",
    [b"<" * 3_000_000, b"<a " * 1_000_000, b"&#1" * 1_000_000, b"</w:p>" * 500_000, b"<v>" * 1_000_000],
    ids=["open", "tags", "entities", "paragraphs", "cells"],
)
def test_markup_is_linear(markup: bytes) -> None:
    begin = time.process_time()
    words.of_markup(markup)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    "page", [b"(" * 900_000, b"(a" * 450_000, b"\\(" * 450_000, b"()Tj " * 180_000, b"(" + b"\\" * 900_000]
)
def test_pages_are_linear(page: bytes) -> None:
    begin = time.process_time()
    words.of_page(b"BT " + page)
    list(words.of_annotations(b"/URI (" * 100_000 + page))
    assert time.process_time() - begin < 2
