# SPDX-License-Identifier: GPL-2.0-or-later
"""One TOML file, one typed tree.

Each room states its settings; here they are only joined. An unknown key, a wrong type or a value
out of range stops the start with file, line and the likely mend: a typo in a policy key must
never pass for the default.
"""

from __future__ import annotations

import difflib
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SignSettings
from gateway.classifier.settings import ClassifierSettings
from gateway.delivery.routes import RouteSettings, parse_route
from gateway.delivery.settings import QueueSettings, ReleaseSettings
from gateway.digest.settings import DigestSettings
from gateway.dns import DnsSettings
from gateway.feedback.settings import LearningSettings
from gateway.listeners import split_host_port
from gateway.lists import ListSettings
from gateway.log import LogSettings
from gateway.logins.settings import LoginSettings
from gateway.mail.domains import check_pattern
from gateway.mail.mime import MimeLimits
from gateway.mail.networks import network
from gateway.milter import MilterSettings
from gateway.policy.rescan import RescanSettings
from gateway.policy.rules import PolicySettings
from gateway.reports.settings import ReportSettings, TlsReportSettings
from gateway.scanners.clamd import ClamdSettings
from gateway.scanners.spamd import SpamdSettings
from gateway.scanners.unpack.settings import UnpackSettings
from gateway.settings import Positive, Seconds, Settings
from gateway.shadow import ShadowSettings
from gateway.smarthost.settings import SmarthostSettings
from gateway.store.database import StoreSettings
from gateway.tls.settings import TlsSettings
from gateway.web.settings import WebSettings

DEFAULT_PATH = Path("/etc/mailwarden/mailwarden.toml")
SIZE_LIMIT = 1 << 20
_WORD = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
# It goes into replies and header fields as it stands (RFC 5321 §4.1.2, RFC 8601 §2.5).
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]*\Z", max_length=255)]
_KEY = re.compile(rf"({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")  # the start of a line that sets something


class ConfigError(Exception):
    """A configuration that must not be used; the text names file, line and likely mend."""


_LIMITS = MimeLimits()


class LimitSettings(Settings, frozen=True):
    """Bounds on the reading of one message; what goes beyond one is the signal MIME_LIMIT."""

    # Nesting of parts.
    depth: Positive = _LIMITS.depth
    # Parts, in all readings together.
    parts: Positive = _LIMITS.parts
    # Header fields of one part.
    fields: Positive = _LIMITS.fields
    # Characters of text kept, and of one HTML part read.
    text: Positive = _LIMITS.text
    # Links.
    urls: Positive = _LIMITS.urls
    # Attachments.
    attachments: Positive = _LIMITS.attachments
    # Octets decoded, in all readings together.
    decoded: Positive = _LIMITS.decoded
    # Further readings of an ambiguous message that are tried.
    readings: Positive = _LIMITS.readings

    def limits(self) -> MimeLimits:
        """Return what the reader takes."""
        return MimeLimits(**msgspec.structs.asdict(self))


class HttpSettings(Settings, frozen=True):
    """Metrics and health over HTTP."""

    # "127.0.0.1:9464" serves /metrics (Prometheus) and /healthz; "" serves nothing.
    listen: str = "127.0.0.1:9464"


class Config(Settings, frozen=True):
    """The whole configuration file."""

    # Our name in SMTP and in Received fields; "" takes the machine's name.
    hostname: Name = ""
    # Who we are in Authentication-Results (RFC 8601); "" takes the hostname.
    authserv_id: Name = ""
    # Domains that we take mail for from everybody; ".example.com" means all below it.
    domains: tuple[str, ...] = ()
    # Networks of our own users: their mail is outbound, and the smart host relays it anywhere.
    relay_networks: tuple[str, ...] = ()
    # User to run as after the sockets are bound; "" stays who we are.
    user: str = ""
    # Seconds for all evidence about one message; below the MTA's milter_content_timeout.
    deadline: Seconds = 20.0
    # Seconds that messages under way get when a process is told to stop.
    grace: Seconds = 30.0
    # Next hop of all recipients that no row of [[routes]] names, as there: "smtp:host:port", or "mx".
    next_hop: str = ""
    # Next hops by recipient domain.
    routes: tuple[RouteSettings, ...] = ()
    # File of our logins at next hops, a line each: host[:port] name password. Nobody else may read it. They
    # are sent over TLS only, to a server with a valid certificate where [[tls.outbound]] says no less.
    next_hop_logins: str = ""
    milter: MilterSettings = MilterSettings()
    smarthost: SmarthostSettings = SmarthostSettings()
    login: LoginSettings = LoginSettings()
    queue: QueueSettings = QueueSettings()
    dns: DnsSettings = DnsSettings()
    auth: AuthSettings = AuthSettings()
    signing: SignSettings = SignSettings()
    antivirus: ClamdSettings = ClamdSettings()
    spamassassin: SpamdSettings = SpamdSettings()
    unpack: UnpackSettings = UnpackSettings()
    dnsbl: ListSettings = ListSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    learning: LearningSettings = LearningSettings()
    policy: PolicySettings = PolicySettings()
    # Policies and models that are tried on live mail, and only recorded.
    shadow: tuple[ShadowSettings, ...] = ()
    rescan: RescanSettings = RescanSettings()
    limits: LimitSettings = LimitSettings()
    tls: TlsSettings = TlsSettings()
    store: StoreSettings = StoreSettings()
    release: ReleaseSettings = ReleaseSettings()
    digest: DigestSettings = DigestSettings()
    report: ReportSettings = ReportSettings()
    tls_report: TlsReportSettings = TlsReportSettings()
    http: HttpSettings = HttpSettings()
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        for text in self.relay_networks:
            network(text)
        for text in self.domains:
            check_pattern(text)
        if self.next_hop:
            parse_route(self.next_hop)
        if not self.store.database.startswith(("sqlite:///", "postgresql://", "postgresql+")):
            raise ValueError(f'database "{self.store.database}" is no URL such as sqlite:////path/file.db')
        if self.learning != LearningSettings() and (
            not self.classifier.enabled or self.classifier.site == "off"
        ):
            raise ValueError("[learning] needs the site's model; see [classifier] enabled and site")
        submission = self.smarthost.submission or self.smarthost.submissions
        if submission and not self.login.users:
            raise ValueError("who may log in at the submission listeners? Set users in [login]")
        pages = (self.http.listen, self.web.listen if self.web.enabled else "")
        others = (*self.tls.socketmap, *filter(None, pages))
        _check_listeners((*self.milter.listen, *self.smarthost.addresses, *others))

    @property
    def name(self) -> str:
        """Our host name."""
        return self.hostname or socket.getfqdn()

    @property
    def authserv(self) -> str:
        """Our authserv-id."""
        return self.authserv_id or self.name

    @property
    def queue_lifetime(self) -> float:
        """Seconds that released mail may wait in the queue; 0 where no agents empty one."""
        return self.queue.lifetime if self.smarthost.listeners and self.smarthost.queue else 0.0


def _check_listeners(addresses: tuple[str, ...]) -> None:
    """Raise ValueError for an address that is none, and for one that two doors want."""
    taken: dict[object, str] = {}
    for address in addresses:
        if address.startswith("unix:/"):
            place: object = address
        else:
            host, port = split_host_port(address.removeprefix("inet:"))
            place = (host.lower(), port)
        if place in taken:
            raise ValueError(f'"{address}" is listened on twice')
        taken[place] = address


def load(path: Path) -> Config:
    """Read the file. Raises `ConfigError`."""
    try:
        data = path.read_bytes()
        if len(data) > SIZE_LIMIT:
            raise ConfigError(f"{path}: larger than {SIZE_LIMIT} octets: not a configuration of ours")
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        table = tomllib.loads(text)
    except FileNotFoundError as error:
        mend = "for standard input name /dev/stdin" if str(path) == "-" else "name another one with --config"
        raise ConfigError(f"{path}: no such file; {mend}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", None) or _line_in(str(error))
        raise ConfigError(f"{path}:{line}: not TOML: {error}") from error
    try:
        return msgspec.convert(table, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_explained(path, text, table, str(error))) from error


def placed(path: Path, message: str) -> str:
    """Put file and line before what was found wrong later, such as "[policy.actions] NAME: ...".

    A message that begins with the name of another file stays as it is; one that names no key has no line.
    """
    found = re.match(r"\[\[?([\w.]+)\]\]?:? ?(?:(\w+):)?|([\w.]+): ", message)
    keys = (found[1] or found[3]).split(".") + ([found[2]] if found[2] else []) if found else []
    if message.startswith("/") or not keys or keys[0] not in Config.__struct_fields__:
        return message if message.startswith("/") else f"{path}: {message}"
    try:
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError:
        return f"{path}: {message}"
    line = locate(text, keys)
    line = _line_of_value(text, message, line)
    named = line > 1 or keys[0] in text.partition("\n")[0]
    return f"{path}:{line}: {message}" if named else f"{path}: {message}"


def _line_in(message: str) -> int:
    found = re.search(r"line (\d+)", message)
    return int(found[1]) if found else 1


def _explained(path: Path, text: str, table: dict[str, Any], message: str) -> str:
    """Turn msgspec's message ("… - at `$.milter.workers`") into file, line and mend."""
    what, _, place = message.partition(" - at `")
    keys = re.findall(r"[A-Za-z0-9_-]+", place.rstrip("`").removeprefix("$"))
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown:
        known = _known_keys(keys)
        close = difflib.get_close_matches(unknown[1], known, 1, cutoff=0.5)
        mend = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        mend = mend if close else _home(unknown[1]) or mend
        where = ".".join(keys)
        what = f"unknown key {unknown[1]}{f' in [{where}]' if where else ''}; {mend}"
        keys = [*keys, unknown[1]]
    elif keys:
        if place.rstrip("`").endswith("[...]") and (entry := _wrong_entry(table, keys)):
            keys = [*keys, entry]
        what = f"{'.'.join(keys)}: {what}{_mend(keys, what)}"
    return f"{path}:{_line_of_value(text, what, locate(text, keys))}: {what}"


def _line_of_value(text: str, what: str, line: int) -> int:
    """Return the line, from `line` on, that holds what the message quotes; `line` if none does."""
    for quoted in re.findall(r"\"([^\"]+)\"|'([^']+)'", what):
        # The whole value, or else a part of one, such as the address behind "inet:".
        value = re.escape(quoted[0] or quoted[1])
        for found in (re.compile(rf"""["']{value}["']"""), re.compile(rf"""["'][^"']*{value}""")):
            for number, one in enumerate(text.splitlines()[line - 1 :], line):
                if found.search(one.partition("#")[0]):
                    return number
    return line


def _home(key: str) -> str:
    """Say where a key belongs that is known, but not where it stands; "" if it is known nowhere."""
    if key in Config.__struct_fields__:
        return "it belongs to the top of the file, before the first [table]"
    tables = [name for name in Config.__struct_fields__ if key in _known_keys([name])]
    return f"it belongs to {' or '.join(f'[{name}]' for name in tables)}" if tables else ""


def _wrong_entry(table: dict[str, Any], keys: list[str]) -> str:
    """Return the name of the first entry of a table of free names that is wrong by itself."""
    entries: Any = table
    for key in keys:
        entries = entries.get(key) if isinstance(entries, dict) else None
    for name, value in entries.items() if isinstance(entries, dict) else ():
        probe = {name: value}
        for key in reversed(keys):
            probe = {key: probe}
        try:
            msgspec.convert(probe, Config, strict=True)
        except msgspec.ValidationError:
            return str(name)
    return ""


def _mend(keys: list[str], what: str) -> str:
    """Return the likely mend of a value of the wrong kind."""
    if what == "Expected `array`, got `str`":
        return '; write a list: ["..."]'
    wrong = re.match(r"Invalid enum value '(.*)'", what)
    allowed = _choices(keys) if wrong else ()
    if not wrong or not allowed:
        return ""
    close = difflib.get_close_matches(wrong[1], allowed, 1)
    listed = ", ".join(f'"{one}"' for one in allowed)
    return f'; did you mean "{close[0]}"?' if close else f"; it is one of {listed}"


def _choices(keys: list[str]) -> tuple[str, ...]:
    """Return the words that the key takes, () if it takes any."""
    kind: Any = msgspec.inspect.type_info(Config)
    for key in [*keys, "", ""]:
        if isinstance(kind, msgspec.inspect.UnionType):
            kind = next((one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)), kind)
        if isinstance(kind, msgspec.inspect.StructType):
            kind = next((f.type for f in kind.fields if f.encode_name == key), None)
        else:
            kind = getattr(kind, "item_type", getattr(kind, "value_type", kind))
    return tuple(map(str, getattr(kind, "values", ())))


def _known_keys(keys: list[str]) -> list[str]:
    """Return the keys of the table at this place of the tree."""
    kind: Any = Config
    for key in keys:
        if key.isdecimal() or key == "...":
            continue
        fields = {f.name: f.type for f in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]  # structs only
        inner = fields.get(key)
        inner = getattr(inner, "item_type", inner)
        kind = getattr(inner, "cls", None)
        if kind is None:
            return []
    return sorted(f.name for f in msgspec.inspect.type_info(kind).fields)  # type: ignore[attr-defined]  # structs only


def locate(text: str, keys: list[str]) -> int:
    """Return the line of a key, as well as a scan of `[table]` headers and `key =` lines can tell.

    `keys` is a path such as ("milter", "workers") or ("tls", "inbound", "0", "level").
    """
    names = [k for k in keys if not k.isdecimal()]
    index = next((int(k) for k in keys if k.isdecimal()), 0)
    current: list[str] = []
    seen: dict[str, int] = {}
    best = 1
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.match(r"\[\[?\s*([^\]]+?)\s*\]\]?", stripped)
        if header and "=" not in stripped.partition("#")[0]:
            current = [part.strip().strip("\"'") for part in header[1].split(".")]
            if stripped.startswith("[["):
                seen[header[1]] = seen.get(header[1], -1) + 1
            if current == names[: len(current)] and seen.get(header[1], index) == index:
                best = number
            continue
        key = _KEY.match(stripped)
        if key:
            full = current + [part.strip().strip("\"'") for part in key[1].split(".")]
            in_row = seen.get(".".join(current), index) == index
            if full == names[: len(full)] and in_row:
                best = number
                if len(full) == len(names):
                    return number
    return best
