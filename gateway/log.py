# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: one line per decision, and one per event of the service.

Structured (key=value, or JSON), on standard error, so that systemd or a container keeps it.
Values are printable and bounded; no message content and no secret is ever among them. A log that cannot be
written (a full disk, a reader that has gone) stops no mail: lines are lost, and the next one says how many.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

import structlog

from gateway.mail.headers import printable
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from gateway.mail.types import Mail, Reply, Verdict

Log = structlog.typing.FilteringBoundLogger


class LogSettings(Settings, frozen=True):
    """How the log is written."""

    # "text" (key=value) or "json".
    format: Literal["text", "json"] = "text"
    # The least severe level that is written: "debug", "info", "warning" or "error".
    level: Literal["debug", "info", "warning", "error"] = "info"


def open_log(settings: LogSettings) -> Log:
    """Return a logger on standard error. Holds no thread and no lock across a fork."""
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.processors.KeyValueRenderer(
            key_order=["timestamp", "level", "event"], repr_native_str=False
        )
    )
    lines = _Lines(sys.stderr)
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(cast("TextIO", lines)),
        processors=[
            lines.tell,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _safe,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.level.upper())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=settings.level.upper(), handlers=[_Bridge(log)], force=True)
    return log


class _Lines:
    """A stream that takes lines, and never fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, line: str) -> None:
        """Write a line, or count it as lost."""
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """Each line has been written."""

    def tell(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Say in the next event how many lines before it were lost."""
        return {**event, "lines_lost": self._lost} if self._lost else event


class _Bridge(logging.Handler):
    """Brings what libraries and rooms say through the standard library onto the same lines."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        level = min(record.levelno, logging.ERROR)
        self._log.log(level, printable(record.getMessage(), 400), logger=record.name, exc_info=error)


def _safe(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep every value on one line and in bounds; tracebacks are our own text."""
    for key, value in event.items():
        if isinstance(value, str):
            if key == "exception":
                event[key] = printable(value.replace("\n", " | "), 4000)
            elif not (value.isascii() and value.isprintable() and len(value) <= 500 and " " not in value):
                text = printable(value, 500)
                event[key] = (
                    text if key in ("event", "timestamp", "level") else f'"{text.replace(chr(34), chr(39))}"'
                )
    return event


def decision(log: Log, door: str, mail: Mail, verdict: Verdict, reply: Reply, seconds: float) -> None:
    """Write the one line that says what happened to a message."""
    log.info(
        "decision",
        id=mail.id,
        queue_id=mail.queue_id,
        door=door,
        client=mail.session.client_ip,
        sender=mail.envelope.mail_from,
        recipients=len(mail.envelope.recipients),
        size=len(mail.raw),
        action=verdict.action.value,
        score=verdict.score,
        reason=verdict.reason,
        held=len(verdict.held),
        stripped=len(verdict.cuts),
        reply=f"{reply.code} {reply.enhanced}",
        ms=round(seconds * 1000, 1),
    )
