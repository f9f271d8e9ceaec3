# SPDX-License-Identifier: GPL-2.0-or-later
"""From attachments down into all that is packed in them.

Reads hostile bytes, and hands them to native code and large libraries: runs in the child only.
No network, no files; what archives call a path is a name here. Whatever goes wrong becomes a
finding, and a bound that is hit ends the walk with one.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import time
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from gateway.mail import magic, mime, sealed, tnef
from gateway.mail.charsets import decode
from gateway.mail.names import extensions
from gateway.mail.types import Finding, Member, Unpacked, Url
from gateway.scanners.unpack import kinds, native, office, pdf, streams, zips
from gateway.scanners.unpack.budget import Broken, Budget, LimitHit, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gateway.scanners.unpack.office import Found

MAX_NAME = 255
MAX_LINKS, MAX_LINK = 100, 1_000
MAX_FINDINGS = 200
MAX_MEMBERS, MAX_MEMBER_KINDS = 100, 1_000
SMALL, MAX_SMALL = 1_000_000, 4_000_000  # octets of members that are scanned where a bound is hit later
_EMPTY = 200  # octets of an archive that may well have no members
_MAX_TRIED = 10_000_000  # octets of an encrypted archive on which passwords are tried

_STREAMS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "application/gzip": streams.gunzip,
    "application/x-bzip2": streams.bunzip2,
    "application/x-xz": streams.unxz,
    kinds.LZMA_ALONE: streams.unlzma,
}
_INNER_ARCHIVES = (
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"MSCF\0\0\0\0", "application/vnd.ms-cab-compressed"),
)
_WEB_ARCHIVE = re.compile(rb"(?<=[\r\n])MIME-Version:", re.IGNORECASE)
# Ordinary parts of a document, which are not listed as members of their own.
_PARTS = ("", "text/xml", "text/html", kinds.OLE, "application/xhtml+xml")


class Walker:
    """One walk: what is left of the budget, and what was found."""

    def __init__(self, limits: Limits = Limits(), passwords: Sequence[str] = ()) -> None:  # noqa: B008 - frozen
        self._budget = Budget(limits)
        self._passwords = passwords
        self._members: list[Member] = []
        self._kinds: set[tuple[object, ...]] = set()
        self._findings: dict[tuple[str, str, int], Finding] = {}
        self._noted: set[tuple[str, int]] = set()
        self._count = 0
        self._attachment = 0
        self._left = limits.parts
        self._small: list[bytes] = []
        self._small_left = MAX_SMALL
        self.parts: dict[bytes, None] = {}  # for the virus scanner
        self._texts: dict[str, None] = {}
        self._links: dict[str, None] = {}
        self._room = limits.text
        self._reads_until = time.process_time() + limits.seconds / 4

    def walk(self, attachments: Iterable[tuple[int, str, bytes]]) -> Unpacked:
        """Walk through attachments, given as (index, name, content)."""
        try:
            for index, name, data in attachments:
                self._attachment = index
                self._visit(data, name[:MAX_NAME], 0)
        except LimitHit as limit:
            self._note("limit", "", f"{limit.name}: {limit.detail}")
            self.parts |= dict.fromkeys(self._small)  # the scanner is not shown the whole
        except MemoryError:
            self._note("limit", "", "memory")
        links = tuple(map(Url, self._links))
        return Unpacked("ok", tuple(self._members), tuple(self._findings.values()), self._count, links=links)

    @property
    def text(self) -> str:
        """The words of the documents."""
        return "\n".join(self._texts)

    # ------------------------------------------------------------ notes

    def _note(self, kind: str, where: str, detail: str = "") -> None:
        # One of each kind is kept of each attachment, however many there are.
        if len(self._findings) < MAX_FINDINGS or (kind, self._attachment) not in self._noted:
            self._noted.add((kind, self._attachment))
            found = Finding(kind, where, _clean(detail[:300]), self._attachment)
            self._findings.setdefault((kind, where, self._attachment), found)

    def _member(
        self,
        name: str,
        data: bytes | None,
        depth: int,
        *,
        size: int = 0,
        encrypted: bool = False,
        listed: bool = True,
    ) -> None:
        """Note a member, and look into it. `data` is None if it could not be unpacked."""
        name = _clean(name)
        kind = magic.detect(data) if data else ""
        self._count += 1
        key = (self._attachment, extensions(name), kind, encrypted)
        if listed and (len(self._members) < MAX_MEMBERS or key not in self._kinds):
            if len(self._members) >= MAX_MEMBER_KINDS:
                raise LimitHit("files", "too many kinds of members")
            self._kinds.add(key)
            size = size if data is None else len(data)
            self._members.append(Member(name, max(0, size), kind, depth, encrypted, self._attachment))
        if data and not _archive(data, kind):
            self._keep_small(data)
        if data:
            self._visit(data, name, depth, kind)

    def _keep_small(self, data: bytes) -> None:
        """Keep what is scanned where a bound is hit later; no archive, which the scanner would open again."""
        if len(data) <= SMALL and self._small_left >= len(data) and len(self._small) < MAX_MEMBERS:
            self._small_left -= len(data)
            self._small.append(data)

    def _hand_on(self, data: bytes) -> None:
        """Keep a member for the virus scanner, which may not see it by itself."""
        if data in self.parts:
            return
        self._left -= len(data)
        if self._left < 0:
            raise LimitHit("parts", "too much for the virus scanner")
        self.parts[data] = None

    # ------------------------------------------------------------ containers

    def _visit(self, data: bytes, name: str, depth: int, kind: str | None = None) -> None:
        """Open `data` as everything that it may be."""
        kind = magic.detect(data) if kind is None else kind
        openers = self._openers(data, name, kind)
        if depth and kind != kinds.MESSAGE:  # of what is attached the reader of messages has shown this
            openers = chain(openers, (self._sealed,))
        for opener in openers:
            if depth >= self._budget.limits.depth:
                raise LimitHit("depth", f"more than {depth} containers in one another")
            try:
                opener(data, name, depth + 1)
            except Broken as error:
                self._note("broken", name, str(error))
            except (LimitHit, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - a library that fails has not seen the file
                self._note("broken", name, f"{type(error).__name__}: {error}")

    def _openers(self, data: bytes, name: str, kind: str) -> Iterator[Callable[[bytes, str, int], None]]:
        outermost = (extensions(name) or ("",))[0]
        by_name = kinds.EXTENSIONS.get(outermost)
        if not kind and by_name:
            kind = by_name
        yield from self._by_kind(name, kind)
        for other in kinds.beneath(data):
            if other != kind:
                yield from self._by_kind(name, other, unseen=True)
        zipped = data.startswith(kinds.ZIP_START) or kinds.ZIP_END in data[-kinds.TAIL :]
        # Documents and programs may be a zip file as well, by what stands at their end; what packs
        # files as they are has one there that is a member, and is no zip file but by its name.
        if zipped and (kind not in kinds.NATIVE or outermost in kinds.ZIP_NAMES):
            yield self._zip
        elif by_name is not None and not zipped:
            if not kind:
                self._note("unsupported", name, "its name is that of an archive")
            elif kind not in kinds.PACKED:
                yield self._inner
                # What needs no mark of its own may start like anything: an old tar, with a member's name.
                yield from self._by_kind(name, by_name)
        yield from self._documents(data, kind)
        if outermost in kinds.SAVED_AS_TEXT and kind == kinds.PDF:
            yield self._saved

    def _sealed(self, data: bytes, name: str, depth: int) -> None:
        """Look at what is signed or compressed, or a message by its name only."""
        inner = sealed.in_file(data, (name,))
        if not inner.whole:
            raise LimitHit("bytes", name)
        for message in inner.messages:
            self._budget.octets(len(message))
            self._hand_on(message)
            self._message(message, name, depth)
        files = (office.Found("", name=decode(file), data=content) for file, content in inner.files)
        self._found(files, name, depth, unseen=True)

    def _by_kind(
        self, name: str, kind: str, *, unseen: bool = False
    ) -> Iterator[Callable[[bytes, str, int], None]]:
        if kind in _STREAMS:
            yield lambda d, n, depth: self._stream(d, n, depth, kind)
        elif kind == kinds.ISO:
            yield lambda d, n, depth: self._optical(d, n, depth, unseen=unseen)
        elif kind in kinds.NATIVE:
            yield lambda d, n, depth: self._native(d, n, depth, kind, unseen=unseen)
        elif kind == kinds.OLE:
            yield lambda d, n, depth: self._found(office.ole(d, n), n, depth)
        elif kind == kinds.MESSAGE:
            yield self._message
        elif kind == kinds.TNEF:
            yield self._tnef
        elif kind in kinds.UNSUPPORTED:
            self._note("unsupported", name, kind)

    def _documents(self, data: bytes, kind: str) -> Iterator[Callable[[bytes, str, int], None]]:
        if kind == kinds.PDF:
            yield lambda d, n, depth: self._found(pdf.look(d, self._budget, self._reads), n, depth)
        elif kind == kinds.RTF:
            yield lambda d, n, depth: self._found(office.rtf(d), n, depth, unseen=True)
        elif kind == kinds.NOTEBOOK:
            yield lambda d, n, depth: self._found(office.notebook(d), n, depth, unseen=True)
        elif kind == kinds.MSO:
            yield lambda d, n, depth: self._found(office.active_mime(d), n, depth, unseen=True)
        elif kind in kinds.XML:
            yield lambda d, n, depth: self._found(office.entities(d), n, depth)
        elif kind in kinds.PROGRAMS:
            yield self._inner
        if kind in ("text/xml", "text/html", "") and b"MSO" in data[:8_000].upper():
            yield lambda d, n, depth: self._found(office.saved_as_text(d), n, depth)

    def _found(self, found: Iterator[Found], name: str, depth: int, *, unseen: bool = False) -> None:
        """Take what a document's reader yields; `unseen` says that the scanner may not see its files."""
        for item in found:
            if item.kind == "limit":
                raise LimitHit(item.detail, name)
            if item.kind in ("text", "link"):
                self._read(item)
            elif item.kind:
                self._note(item.kind, name, item.detail)
            if item.data is not None:
                self._budget.member()
                self._budget.octets(len(item.data))
                if unseen:
                    self._hand_on(item.data)
                self._member(item.name, item.data, depth)

    def _reads(self) -> bool:
        """Whether more words are wanted, and there is time for them: they are worth no limit."""
        return self._room > 0 and time.process_time() < self._reads_until

    def _read(self, item: Found) -> None:
        """Keep a text or a link of a document, as far as there is room."""
        detail = item.detail.encode("utf-8", "replace").decode()
        if item.kind == "link":
            if len(self._links) < MAX_LINKS:
                self._links.setdefault(detail[:MAX_LINK])
        elif detail[: self._room]:
            self._texts.setdefault(detail[: self._room])
            self._room -= len(detail[: self._room])

    def _stream(self, data: bytes, name: str, depth: int, kind: str) -> None:
        self._budget.member()
        ends: list[int] = []
        plain = self._budget.collect(_marked(_STREAMS[kind](data), ends), len(data))
        if kind == kinds.LZMA_ALONE or (ends and kind == "application/x-bzip2"):
            self._hand_on(plain)  # of several streams of bzip2 clamd unpacks the first
        # Some programs stop behind the first stream, and each may be a file by itself.
        several = [plain[start:end] for start, end in pairwise((0, *ends, len(plain)))] if ends else []
        for piece in filter(None, several[:MAX_MEMBERS]):
            if len(piece) > min(SMALL, self._left):
                break
            self._hand_on(piece)
        self._member(_without_extension(name), plain, depth)

    def _optical(self, data: bytes, name: str, depth: int, *, unseen: bool) -> None:
        """Read each tree of names; what stands in several of them counts once."""
        seen: set[tuple[object, ...]] = set()
        for tree in native.TREES:
            self._native(data, name, depth, kinds.ISO, unseen=unseen, tree=tree, seen=seen)

    def _native(
        self,
        data: bytes,
        name: str,
        depth: int,
        kind: str,
        *,
        unseen: bool = False,
        tree: str = "",
        seen: set[tuple[object, ...]] | None = None,
    ) -> None:
        budget, before = self._budget, self._count
        unseen = unseen or kind in kinds.UNSEEN
        for entry in native.entries(data, kind, options=tree):
            budget.member()
            inner = _without_extension(name) if kinds.NATIVE[kind][0] == ("raw",) else entry.name
            self._path(inner, name, entry.target, device=entry.special == "device")
            if entry.directory:
                continue
            if entry.encrypted:
                self._note("encrypted", name, inner)
                self._member(inner, None, depth, size=entry.size, encrypted=True)
                continue
            budget.declared(entry.size, len(data))
            try:
                plain: bytes | None = budget.collect(entry.blocks, len(data))
            except Broken as error:
                self._note("broken", name, f"{inner}: {error}")
                plain = None
            if plain and seen is not None:
                key = hashlib.sha256(plain).digest(), extensions(inner)[:1]
                if key in seen:
                    budget.refund(len(plain))
                    continue
                seen.add(key)
            if plain and unseen:
                self._hand_on(plain)
            self._member(inner, plain, depth, size=entry.size)
        if self._count == before and not seen and len(data) > _EMPTY:
            self._note("broken", name, "no members")
        if kind == "application/x-tar" and data.find(b"ustar", native.position(data, kind) + 257) >= 0:
            self._note("ambiguous", name, "members stand behind the end")

    def _inner(self, data: bytes, name: str, depth: int) -> None:
        """Look for an archive behind a program that unpacks it."""
        for mark, kind in _INNER_ARCHIVES:
            start = data.find(mark)
            if start > 0:
                self._native(data[start:], name, depth, kind)

    def _message(self, data: bytes, name: str, depth: int) -> None:
        content = mime.parse(data)
        for limit in content.limits:
            raise LimitHit(limit, f"message {name}")
        if content.ambiguities:
            self._note("ambiguous", name, ", ".join(content.ambiguities))
        for reading in content.readings:
            self._hand_on(reading)
        known = magic.starts_message(data)
        for attachment in content.attachments:
            self._budget.member()
            if not known:
                self._hand_on(attachment.data)
            self._budget.octets(attachment.size)
            self._member(attachment.names[0] if attachment.names else "", attachment.data, depth)

    def _saved(self, data: bytes, name: str, depth: int) -> None:
        """Read the web archive that Office finds behind what looks like a PDF."""
        if found := _WEB_ARCHIVE.search(data):
            self._message(data[found.start() :], name, depth)

    def _tnef(self, data: bytes, name: str, depth: int) -> None:
        files, whole = tnef.read(data)
        if not whole:
            self._note("broken", name, "it ends in the middle")
        for names, content in files:
            for number, inner in enumerate(names or ("",)):
                self._budget.member()
                self._budget.octets(len(content))
                if depth > 1:  # of one that is attached the reader of messages has shown all files
                    self._hand_on(content)
                self._member(inner, b"" if number else content, depth)

    # ------------------------------------------------------------ zip

    def _zip(self, data: bytes, name: str, depth: int) -> None:
        reading = zips.read(data, self._budget)
        for text in reading.broken:
            self._note("broken", name, text)
        for text in reading.ambiguous:
            self._note("ambiguous", name, text)
        document = office.is_document([member.names[0] for member in reading.members])
        # What the scanner may not find its way in.
        odd = bool(
            reading.broken or reading.ambiguous or reading.wide or not data.startswith(kinds.ZIP_START)
        )
        members = reading.members
        too_much = sum(m.size for m in members if not m.encrypted) > self._budget.limits.bytes
        if too_much:  # the scanner is shown what is small, and nothing of the rest
            members = [m for m in members if m.size <= SMALL and m.method in zips.OWN and not m.encrypted]
        other = [m for m in members if m.encrypted or m.method not in zips.OWN]
        opened = self._opened(data, name, other) if other else {}
        for member in members[: MAX_MEMBERS if too_much else None]:
            for inner in member.names:
                self._path(inner, name, "")
            if member.names[0].endswith(("/", "\\")) and not member.size:
                continue
            plain = opened.get(member.names[0]) if member in other else self._content(data, member, name)
            if plain and (odd or member in other or member.method not in zips.KNOWN_TO_CLAMD):
                self._hand_on(plain)
            if member.link and plain:
                self._path(member.names[0], name, plain[:MAX_NAME].decode("utf-8", "replace"))
            self._zip_member(member, plain, depth, name, document=document)
        if too_much:
            raise LimitHit("bytes", f"{name} declares more than {self._budget.limits.bytes} octets")

    def _zip_member(
        self, member: zips.Member, plain: bytes | None, depth: int, where: str, *, document: bool
    ) -> None:
        for number, inner in enumerate(member.names):
            listed = not document
            if document:
                kind = magic.detect(plain or b"")
                listed = kind not in _PARTS and not kind.startswith(("image/", office.PACKAGE))
                self._found(office.part(inner, plain or b"", self._reads), where, depth)
            if number:  # the same content under another name
                self._budget.member()
                plain = plain[:0] if plain is not None else None
            self._member(inner, plain, depth, size=member.size, encrypted=member.encrypted, listed=listed)

    def _content(self, data: bytes, member: zips.Member, name: str) -> bytes | None:
        try:
            return zips.content(data, member, self._budget)
        except Broken as error:
            self._note("broken", name, f"{member.names[0]}: {error}")
            return None

    def _opened(self, data: bytes, name: str, members: list[zips.Member]) -> dict[str, bytes]:
        """Let libarchive try what is encrypted, with words of the message, or packed otherwise."""
        encrypted = any(m.encrypted for m in members)
        if encrypted and (not self._passwords or len(data) > _MAX_TRIED):
            self._note("encrypted", name, members[0].names[0])
            return {}
        problem = ""
        for password in self._passwords if encrypted else ("",):
            self._budget.check_time()
            files: dict[str, bytes] = {}
            try:
                for entry in native.entries(data, kinds.ZIP, password):
                    if not entry.directory:
                        files[entry.name] = self._budget.collect(entry.blocks, len(data))
            except Broken as error:
                problem = str(error)
                continue
            if encrypted:
                self._note("opened", name, password)
            return files
        self._note("encrypted" if encrypted else "unsupported", name, problem)
        return {}

    def _path(self, inner: str, where: str, target: str, *, device: bool = False) -> None:
        """Note names and links that lead out of the folder they are unpacked to."""
        path = inner.replace("\\", "/")
        if device:
            self._note("escape", where, f"device {inner}")
        elif path.startswith("/") or path[1:2] == ":" or ".." in path.split("/"):
            self._note("escape", where, inner)
        elif target:
            goal = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if goal.startswith(("/", "..")):
                self._note("escape", where, f"{inner} -> {target}")


def _clean(name: str) -> str:
    """Keep a name within bounds, and free of what is no character."""
    return name[:MAX_NAME].encode("utf-8", "replace").decode()


def _marked(blocks: Iterator[bytes], ends: list[int]) -> Iterator[bytes]:
    """Give the blocks on, and note at which octet each stream but the last ends."""
    count = 0
    for block in blocks:
        count += len(block)
        if not block:
            ends.append(count)
        yield block


def _without_extension(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    if extension.lower() in ("tgz", "tbz", "tbz2", "txz", "tlz", "tzst", "taz"):
        return f"{stem}.tar"
    return stem if dot else name


def _archive(data: bytes, kind: str) -> bool:
    """Whether it packs other files, which are members of their own."""
    return kind in _STREAMS or kind in kinds.NATIVE or data.startswith(kinds.ZIP_START)
