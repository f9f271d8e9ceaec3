# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML to the text a reader sees, the text hidden from the reader, and the links with their words.

Reads hostile markup; no network, nothing is run. Ordinary documents go through lexbor (by
selectolax), which reads as browsers do. HTML's own parsing rules are quadratic in the worst case
(open elements are searched at each tag, open formatting elements are copied into each paragraph),
so tags are counted first, and a document with too many goes through a plain linear reader instead,
which is named as a limit.
"""

from __future__ import annotations

import html as entities
import re
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from gateway.mail.types import Url

MAX_HTML = 1_000_000  # characters of markup read
MAX_TAGS = 10_000
MAX_COPIES = 2_000_000  # formatting elements times tags
MAX_SHOWN = 300  # characters of a link's words
MAX_HIDDEN = 500  # hidden elements looked at
MAX_TARGET = 2_000


@dataclass(frozen=True, slots=True)
class Page:
    """What an HTML text says. `plain_reader` tells that lexbor was not asked, see above."""

    text: str
    hidden: str
    urls: tuple[Url, ...]
    plain_reader: bool = False


_FORMATTING = re.compile(r"<(?:a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\s/>]", re.IGNORECASE)
# A cheap look for anything that may hide text, so that the tree is searched only where it pays.
_MAY_HIDE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|(?:font(?:-size)?|line-height|height|width)\s*:[^;\"'}]{0,40}?\b0"
    r"|opacity\s*:\s*0|text-indent\s*:\s*-|(?:left|top|margin-left)\s*:\s*-\d{3}|\shidden[\s=>]|color\s*[:=]|size\s*=\s*[\"']?[01]\b"
    r"|mso-hide|transparent|clip\s*:",
    re.IGNORECASE,
)
_HIDING_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|mso-hide\s*:\s*all"
    r"|(?<![-a-z])opacity\s*:\s*(?:0(?:\.0\d*)?|\.0\d*|0?\.0+)\s*(?:;|!|\Z)"
    r"|font-size\s*:\s*(?:0|0?\.\d+|1)\s*(?:px|pt|em|%|rem|;|!|\Z)"
    r"|font\s*:\s*(?:\w+\s+){0,3}0(?:px|pt|em)?[\s/;]"
    r"|text-indent\s*:\s*-\d{3,}|(?:left|top|margin-left)\s*:\s*-\d{4,}"
    r"|(?:max-)?(?:height|width)\s*:\s*0(?:px|pt|em|%)?\s*(?:;|!|\Z)(?=.*overflow\s*:\s*hidden)"
    r"|color\s*:\s*transparent|clip\s*:\s*rect\(\s*0",
    re.IGNORECASE | re.DOTALL,
)
_NOT_HIDING_EM = re.compile(r"font-size\s*:\s*(?:0?\.\d+|1)\s*(?:em|rem|%)", re.IGNORECASE)
_COLOR = re.compile(r"(?<![-a-z])color\s*:\s*([^;!]{1,40})", re.IGNORECASE)
_BACKGROUND = re.compile(r"background(?:-color)?\s*:\s*([^;!]{1,80})", re.IGNORECASE)
_STYLED = "[style],[hidden],font[color],font[size]"
_LINKS = "a[href],area[href],form[action],iframe[src],img[src],link[href],embed[src],object[data]"
_TARGET = {"a": "href", "area": "href", "form": "action", "link": "href", "object": "data"}
_SKIP = ["script", "style", "head", "title", "noscript", "template", "svg", "math"]
_SPACES = re.compile(r"[ \t\r\f\v\u00a0]+")
_LINES = re.compile(r"\s*\n\s*")
_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0), "snow": (255, 250, 250), "ivory": (255, 255, 240)}
_HEX = re.compile(r"#([0-9a-f]{3}|[0-9a-f]{6})\b", re.IGNORECASE)
_RGB = re.compile(r"rgba?\(\s*(\d{1,3})\s*[, ]\s*(\d{1,3})\s*[, ]\s*(\d{1,3})", re.IGNORECASE)
_NEAR = 24  # colours that differ by less in each channel are read as the same


def read(markup: str) -> Page:
    """Read an HTML text. Linear for what is let through to lexbor; never raises."""
    markup = markup[:MAX_HTML].replace("\0", "")
    tags = markup.count("<")
    if tags > MAX_TAGS or (tags > 500 and len(_FORMATTING.findall(markup)) * tags > MAX_COPIES):
        return _plainly(markup)
    tree = LexborHTMLParser(markup)
    body = tree.body or tree.root
    if body is None:
        return Page("", "", ())
    urls = _urls(tree)
    hidden = _take_hidden(tree) if _MAY_HIDE.search(markup) else ""
    tree.strip_tags(_SKIP)
    return Page(_tidy(body.text(separator="\n")), hidden, urls)


def _tidy(text: str) -> str:
    return _LINES.sub("\n", _SPACES.sub(" ", text)).strip()


def _urls(tree: LexborHTMLParser) -> tuple[Url, ...]:
    found: dict[tuple[str, str], None] = {}
    for node in tree.css(_LINKS):
        tag = node.tag or ""
        target = (node.attributes.get(_TARGET.get(tag, "src")) or "").strip()
        if not target or target[0] == "#" or target.startswith("cid:"):
            continue
        shown = ""
        if tag == "a":
            shown = _SPACES.sub(" ", node.text(separator=" ")[: MAX_SHOWN * 2].replace("\n", " ")).strip()
        found.setdefault((target[:MAX_TARGET], shown[:MAX_SHOWN]))
    return tuple(Url(target, shown) for target, shown in found)


def _take_hidden(tree: LexborHTMLParser) -> str:
    """Cut the elements that no reader sees out of the tree and return their text."""
    pieces: list[str] = []
    for count, node in enumerate(tree.css(_STYLED)):
        if count >= MAX_TAGS or len(pieces) >= MAX_HIDDEN:
            break
        if node.tag in ("html", "body", "head", "img", "br", "hr"):
            continue
        if _is_hidden(node):
            text = node.text(separator=" ").strip()
            if text:
                pieces.append(_SPACES.sub(" ", text.replace("\n", " ")))
                for child in list(node.iter(include_text=True)):
                    child.decompose()
    return "\n".join(pieces)


def _is_hidden(node: LexborNode) -> bool:
    attributes = node.attributes
    if "hidden" in attributes:
        return True
    style = attributes.get("style") or ""
    if style:
        style = style[:2_000]
        if _HIDING_STYLE.search(_NOT_HIDING_EM.sub("", style)):
            return True
    if node.tag == "font" and (attributes.get("size") or "").strip() in ("0", "-7"):
        return True
    found = _COLOR.search(style)
    color = _color(found[1] if found else (attributes.get("color") or "") if node.tag == "font" else "")
    if color is None:
        return False
    return _same(color, _background(node))


def _background(node: LexborNode) -> tuple[int, int, int] | None:
    """The colour behind `node`; None where a picture or a colour we cannot read is."""
    current: LexborNode | None = node
    for _ in range(40):
        if current is None:
            break
        attributes = current.attributes
        found = _BACKGROUND.search((attributes.get("style") or "")[:2_000])
        if found:
            return _color(found[1])
        if attributes.get("background"):
            return None
        if attributes.get("bgcolor"):
            return _color(attributes["bgcolor"] or "")
        current = current.parent
    return (255, 255, 255)


def _same(one: tuple[int, int, int], other: tuple[int, int, int] | None) -> bool:
    return other is not None and all(abs(a - b) < _NEAR for a, b in zip(one, other, strict=True))


def _color(text: str) -> tuple[int, int, int] | None:
    text = text.strip().lower()
    if text in _NAMED:
        return _NAMED[text]
    found = _HEX.search(text if text.startswith(("#", "url")) else "#" + text if len(text) in (3, 6) else text)
    if found:
        digits = found[1] if len(found[1]) == 6 else "".join(c + c for c in found[1])
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    found = _RGB.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


# ---------------------------------------------------------------- the plain reader

_DROPPED = re.compile(r"<(script|style|title)\b.*?(?:</\1|\Z)", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"<[a-zA-Z/!?][^<>]*+>?")
_LINK = re.compile(r"(?:href|src|action)\s{0,9}=\s{0,9}[\"']?([^\"'\s>]{1,2000})", re.IGNORECASE)
_MAX_LINKS = 5_000


def _plainly(markup: str) -> Page:
    """Take tags out by pattern, in one pass each, for documents that a tree is not built of."""
    urls: dict[str, None] = {}
    for count, found in enumerate(_LINK.finditer(markup)):
        if count >= _MAX_LINKS:
            break
        urls.setdefault(entities.unescape(found[1]))
    text = _COMMENT.sub(" ", markup)
    text = _TAG.sub("\n", _DROPPED.sub(" ", text))
    return Page(_tidy(entities.unescape(text)), "", tuple(Url(u) for u in urls), plain_reader=True)
