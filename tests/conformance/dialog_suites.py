# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded SMTP dialogues, line for line against the smart-host door of a real gateway.

The gateway has a listener in clear, one for submission with TLS at once, and one account. Its policy
rejects messages with broken header fields, as the server does with which the dialogues were recorded; by
default such a message is only weighed. Codes must agree; texts are each server's own. Where both
refuse, our code may be another one (`OURS`). Where a row says how a message must arrive, that counts.
"""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.lab.certificates import Authority
from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway.logins.hashes import new
from tests.conformance.auth_suites import Outcome, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# (command, their code, ours): where both refuse, and we have a reason of our own.
OURS = {
    ("AUTH SOMETHINGELSE", "534", "504"),  # RFC 4954 §4: an unknown mechanism
    ("RCPT TO:<a@xn--->", "501", "554"),  # no relay for that domain comes first
    ("RCPT TO:<henryⅣ@testserver>", "550", "553"),  # RFC 6531 §3.5: an address that needs SMTPUTF8
    ("AUTH PLAIN", "503", "502"),  # RFC 5321 §4.2.4: not offered on this listener at all
}
_USER, _PASSWORD = "user@testserver", b"secretpassword"
_SIZE = 1_048_000  # octets; the recorded server counts line ends as one


def dialogues(root: Path) -> Iterator[Outcome]:
    """Play all rows."""
    folder = root / "smtp-chasquid-dialogs"
    with tempfile.TemporaryDirectory(prefix="mailwarden-dialogues-") as name, Sink() as sink:
        directory = Path(name)
        directory.chmod(0o755)
        ports = {"1025": free_port(), "1465": free_port()}
        authority = Authority(directory / "ca")
        with Gateway(directory, _config(directory, authority, sink, ports)):
            for row in rows(folder / "cases.jsonl"):
                sink.clear()
                wrong = _played(row["steps"], ports, authority)
                expected = folder / f"{row['file']}.verify"
                if not wrong and expected.is_file():
                    wrong = _delivered(sink, expected.read_bytes())
                yield Outcome(f"{row['file']}", not wrong, wrong)


def _config(directory: Path, authority: Authority, sink: Sink, ports: dict[str, int]) -> dict[str, Any]:
    pair = authority.issue("localhost")
    users = directory / "users"
    users.write_text(f"{_USER}:{new(_PASSWORD, bytes(16))}\n")
    return {
        "hostname": "gw.example.com",
        "domains": ["testserver"],
        "next_hop": f"smtp:{sink.address}",
        "grace": 5,
        "smarthost": {
            "listen": [f"127.0.0.1:{ports['1025']}"],
            "submissions": [f"127.0.0.1:{ports['1465']}"],
            "certificate": str(pair.certificate),
            "key": str(pair.key),
            "workers": 1,
            "size_limit": _SIZE,
        },
        "login": {"users": f"file:{users}", "delay": 0.05},
        "antivirus": {"enabled": False},
        "classifier": {"enabled": False},
        "policy": {
            "thresholds": {"tag": 900, "quarantine": 950, "reject": 1000},
            "actions": {"MIME_DEFECT": "reject"},
        },
        "http": {"listen": ""},
        "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
    }


def _played(steps: list[str], ports: dict[str, int], authority: Authority) -> str:
    """What went wrong, "" if nothing did."""
    connection: socket.socket | None = None
    lines: Any = None
    said = ""
    try:
        for step in steps:
            _, action, *rest = step.split(" ", 2)
            argument = rest[0] if rest else ""
            if action in ("tcp_connect", "tls_connect"):
                if connection is not None:
                    connection.close()
                connection = _connected(ports[argument[-4:]], authority if action[1] == "l" else None)
                lines = connection.makefile("rb")
                continue
            assert connection is not None
            if action == "close":
                connection.close()
            elif action == "->":
                said = argument
                connection.sendall(argument.encode() + b"\r\n")
            elif action == "~>":
                connection.sendall(literal(argument))
            elif action == "<...":
                while (answer := lines.readline().decode()) and argument not in answer:
                    pass
                if not answer:
                    return f"{said}: closed"
            else:
                answer = lines.readline().decode()
                if not _agree(said, argument, answer):
                    return f"{said[:60]}: {answer!r} instead of {argument!r}"
    except OSError as error:
        return f"{said[:60]}: {error}"
    finally:
        if connection is not None:
            connection.close()
    return ""


def _connected(port: int, authority: Authority | None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    if authority is None:
        return connection
    return authority.client_context().wrap_socket(connection, server_hostname="localhost")


def _agree(said: str, wanted: str, answer: str) -> bool:
    """Whether an answer is the one wanted."""
    theirs = re.match(r"[0-9]{3}", wanted)
    assert theirs, wanted
    if answer[:3] == theirs[0] or (said, theirs[0], answer[:3]) in OURS:
        return True
    # RFC 5321 §4.5.3.1.9 has 500 for a long line, and 501 for an argument that no host name can be.
    return len(said) > 255 and theirs[0] == "554" and answer[:3] in ("500", "501")


def literal(expression: str) -> bytes:
    """What `'b' * 55 + '\\r\\n'` and `('a' * 899 + '\\r\\n') * 1165` stand for."""
    expression = expression.strip()
    times = re.fullmatch(r"\((.*)\) \* ([0-9]+)", expression)
    if times:
        return literal(times[1]) * int(times[2])
    parts = re.findall(r"'((?:[^'\\]|\\.)*)'(?: \* ([0-9]+))?", expression)
    return b"".join(
        text.replace("\\r", "\r").replace("\\n", "\n").encode() * int(count or 1) for text, count in parts
    )


def _delivered(sink: Sink, expected: bytes) -> str:
    """Compare what arrived with what must have: the body, and the fields it was sent with."""
    (taken,) = sink.wait_for(1, 40)
    wanted = expected.replace(b"\r\n", b"\n").strip(b"\n")
    found = taken.data.replace(b"\r\n", b"\n").strip(b"\n")
    return "" if found.endswith(wanted) else f"delivered: {found!r} instead of {wanted!r}"


SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {"smtp-chasquid-dialogs": dialogues}
