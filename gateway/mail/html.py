# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML to the text a reader sees, the text hidden from the reader, and the links with their words.

Reads hostile markup; no network, nothing is run; one pass, linear in its length. No tree is built:
HTML's own parsing rules are quadratic in the worst case, so that a browser's parser (lexbor was
measured) takes 20 s for one tag with 100,000 attributes and 0.8 s for 40 KB of misnested `<b>`.
What a judge needs of a document, its words, its links and what is invisible, the tokens tell.
"""

from __future__ import annotations

import html as entities
import re
from dataclasses import dataclass

from gateway.mail.types import Url

MAX_HTML = 1_000_000  # characters of markup read
MAX_URLS = 5_000
MAX_SHOWN = 300  # characters of a link's words
MAX_TARGET = 2_000
MAX_DEPTH = 300  # open elements that are kept track of
_LOOK_BACK = 40  # open elements among which an end tag finds its start

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Page:
    """What an HTML text says: lines of words, the hidden words, and links in their order."""

    text: str
    hidden: str
    urls: tuple[Url, ...]


# One comment, raw element, tag or stray "<". Attributes as HTML §13.2.5.32 to 39 has them. Each
# alternative takes its characters once and for all.
_TOKEN = re.compile(
    r"<!--(?:-?>|.*?(?:--!?>|\Z))"
    r"|<((?i:script|style|title|xmp|iframe|noembed|noframes|template))\b.*?(?:</(?i:\1)\b[^>]*+>|\Z)"
    r"|<(/?)([a-zA-Z][a-zA-Z0-9:-]*+)((?:[\s/]++|[^\s/>][^\s/>=]*+"
    r"(?:\s*+=\s*+(?:\"[^\"]*+\"?+|'[^']*+'?+|[^\s>\"'][^\s>]*+)?+)?+)*+)>?+"
    r"|<[!?/][^>]*+>?+|<",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(
    r"([^\s/>=\"'][^\s/>=]*+)(?:\s*+=\s*+(?:\"([^\"]*+)\"?+|'([^']*+)'?+|([^\s>\"'][^\s>]*+))?+)?+"
)
_MAX_ATTRIBUTES = 60

_VOID = frozenset(
    (
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    )
)
_INLINE = frozenset(
    (
        *(
            "a",
            "abbr",
            "acronym",
            "b",
            "bdi",
            "bdo",
            "big",
            "cite",
            "code",
            "del",
            "em",
            "font",
            "i",
            "img",
            "ins",
        ),
        *(
            "kbd",
            "label",
            "mark",
            "nobr",
            "o:p",
            "q",
            "s",
            "samp",
            "small",
            "span",
            "strike",
            "strong",
            "sub",
        ),
        *("sup", "tt", "u", "var", "wbr"),
    )
)
_OWN_END = frozenset(("p", "li", "td", "th", "tr", "dd", "dt", "option"))  # a second one ends the first
_LINK = {
    "a": "href",
    "area": "href",
    "form": "action",
    "iframe": "src",
    "img": "src",
    "embed": "src",
    "object": "data",
    "base": "href",
}
_LOOKED_INTO = ("style", "hidden", "bgcolor", "background")
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|mso-hide\s*:\s*all"
    r"|(?<![-a-z])opacity\s*:\s*0?(?:\.0\d*)?\s*(?:;|!|\Z)"
    r"|font-size\s*:\s*(?:0+(?:\.0*)?(?:[a-z]{1,3}|%)?|0?\.[0-9]+(?:px|pt)|1px)\s*(?:;|!|\Z)"
    r"|font\s*:\s*(?:[a-z]+\s+){0,3}0(?:px|pt|em)?[\s/;]"
    r"|text-indent\s*:\s*-\d{3}|(?<![-a-z])(?:left|top|margin-left)\s*:\s*-\d{4}"
    r"|(?<![-a-z])color\s*:\s*transparent|clip\s*:\s*rect\(\s*0",
    re.IGNORECASE,
)
_NO_ROOM = re.compile(r"(?:max-)?(?:height|width)\s*:\s*0(?:px|pt|em|%)?\s*(?:;|!|\Z)", re.IGNORECASE)
_CLIPPED = re.compile(r"overflow\s*:\s*hidden", re.IGNORECASE)
_COLOR = re.compile(r"(?<![-a-z])color\s*:\s*([^;!]{1,40})", re.IGNORECASE)
_BACKGROUND = re.compile(r"background(?:-color)?\s*:\s*([^;!]{1,80})", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n\f\v\u00a0]+")
_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0), "snow": (255, 250, 250), "ivory": (255, 255, 240)}
_HEX = re.compile(r"#?([0-9a-f]{6}|[0-9a-f]{3})\b", re.IGNORECASE)
_RGB = re.compile(r"rgba?\(\s*(\d{1,3})\s*[, ]\s*(\d{1,3})\s*[, ]\s*(\d{1,3})", re.IGNORECASE)
_NEAR = 24  # colours that differ by less in each channel are read as the same
_WHITE = (255, 255, 255)


@dataclass(slots=True)
class _Open:
    """An open element: whether its text is hidden, and the colour behind it, if we can tell."""

    name: str
    hidden: bool
    ground: Color | None


def read(markup: str) -> Page:
    """Read an HTML text in one pass. Never raises."""
    markup = markup[:MAX_HTML].replace("\0", "")
    shown: list[str] = []
    hidden: list[str] = []
    urls: dict[tuple[str, str], None] = {}
    stack = [_Open("", hidden=False, ground=_WHITE)]
    anchor, anchor_at = "", 0
    position = 0
    for token in _TOKEN.finditer(markup):
        start = token.start()
        if start > position:
            (hidden if stack[-1].hidden else shown).append(markup[position:start])
        position = token.end()
        name = token[3]
        if name is None:
            if position - start == 1:
                shown.append("<")
            continue
        name = name.lower()
        if name not in _INLINE:
            (hidden if stack[-1].hidden else shown).append("\n")
        if name == "a" and anchor:
            _add(urls, anchor, "".join(shown[anchor_at : anchor_at + 100]))
            anchor = ""
        if token[2]:
            _close(stack, name)
            continue
        attributes = token[4]
        wanted = _LINK.get(name)
        if wanted or name == "font" or _looked_into(attributes):
            values = _attributes(attributes)
            target = values.get(wanted, "") if wanted else ""
            if name == "a" and target:
                anchor, anchor_at = target, len(shown)
            elif target:
                _add(urls, target, "")
        else:
            values = {}
        if name not in _VOID:
            _open(stack, name, values)
    (hidden if stack[-1].hidden else shown).append(markup[position:])
    if anchor:
        _add(urls, anchor, "".join(shown[anchor_at : anchor_at + 100]))
    found = tuple(Url(target, words) for target, words in urls)
    return Page(_tidy("".join(shown)), _tidy("".join(hidden)), found)


def _tidy(text: str) -> str:
    """Entities read, spaces and empty lines made one."""
    if "&" in text:
        text = entities.unescape(text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _looked_into(attributes: str) -> bool:
    if not attributes:
        return False
    lower = attributes.lower()
    return any(word in lower for word in _LOOKED_INTO)


def _attributes(text: str) -> dict[str, str]:
    """The first value of each attribute, names in lower case, entities read."""
    found: dict[str, str] = {}
    for count, match in enumerate(_ATTRIBUTE.finditer(text)):
        if count >= _MAX_ATTRIBUTES:
            break
        value = match[2] or match[3] or match[4] or ""
        found.setdefault(match[1].lower(), entities.unescape(value) if "&" in value else value)
    return found


def _add(urls: dict[tuple[str, str], None], target: str, words: str) -> None:
    target = "".join(target[: MAX_TARGET * 2].split()) if target[:5].lower() != "data:" else target
    if not target or target[0] == "#" or target[:4].lower() == "cid:" or len(urls) >= MAX_URLS:
        return
    if words:
        words = _SPACES.sub(" ", entities.unescape(words[: MAX_SHOWN * 4])).strip()[:MAX_SHOWN]
    urls.setdefault((target[:MAX_TARGET], words))


def _open(stack: list[_Open], name: str, values: dict[str, str]) -> None:
    if name in _OWN_END and stack[-1].name == name:
        stack.pop()
    parent = stack[-1]
    if len(stack) >= MAX_DEPTH:
        return
    if not values:
        stack.append(_Open(name, parent.hidden, parent.ground))
        return
    style = values.get("style", "")[:2_000]
    ground = _ground(style, values, parent.ground)
    hidden = (
        parent.hidden
        or "hidden" in values
        or (bool(style) and _hides(style))
        or (name == "font" and values.get("size", "").strip() in ("0", "-7"))
    )
    if not hidden and ground is not None:
        found = _COLOR.search(style)
        color = _color(found[1] if found else values.get("color", ""))
        hidden = color is not None and _same(color, ground)
    stack.append(_Open(name, hidden, ground))


def _close(stack: list[_Open], name: str) -> None:
    """End the innermost element of this name, and all in it; ignore an end without start."""
    for index in range(len(stack) - 1, max(0, len(stack) - _LOOK_BACK), -1):
        if stack[index].name == name:
            del stack[index:]
            return


def _hides(style: str) -> bool:
    return bool(_HIDING.search(style)) or bool(_NO_ROOM.search(style) and _CLIPPED.search(style))


def _ground(style: str, values: dict[str, str], behind: Color | None) -> Color | None:
    """The colour behind an element's text; None where a picture is, or what we cannot read."""
    found = _BACKGROUND.search(style)
    if found:
        return behind if "transparent" in found[1] else _color(found[1])
    if "background" in values:
        return None
    return _color(values["bgcolor"]) if "bgcolor" in values else behind


def _same(one: Color, other: Color) -> bool:
    return all(abs(a - b) < _NEAR for a, b in zip(one, other, strict=True))


def _color(text: str) -> Color | None:
    text = text.strip().lower()
    if text in _NAMED:
        return _NAMED[text]
    found = _HEX.match(text)
    if found:
        digits = found[1] if len(found[1]) == 6 else "".join(c + c for c in found[1])
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    found = _RGB.match(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
