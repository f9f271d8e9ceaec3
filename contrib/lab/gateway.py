# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden serve` as a process: start, reload, stop, kill workers, measure.

The configuration is given as TOML text, or as nested dicts that are written as TOML.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.lab.cleanup import ProtocolError
from contrib.lab.milter_client import MilterClient
from contrib.lab.process import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]


class Gateway(Server):
    """The gateway with `config`, whose file lies in `directory`. Its log is JSON lines or text."""

    name = "mailwarden"

    def __init__(
        self,
        directory: Path,
        config: str | Mapping[str, Any],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.file = self.directory / "mailwarden.toml"
        self._python = python
        self._environment = dict(environment or {})
        self.started_in = 0.0  # seconds until both doors accepted
        self.configure(config)

    def configure(self, config: str | Mapping[str, Any]) -> None:
        """Write the configuration file; `reload` makes a running gateway read it."""
        text = config if isinstance(config, str) else to_toml(config)
        self.file.write_text(text)
        self._config = tomllib.loads(text)

    @property
    def milters(self) -> list[str | tuple[str, int]]:
        """The addresses of the milter door, as MilterClient takes them."""
        return [_where(text) for text in self._config.get("milter", {}).get("listen", ())]

    @property
    def smarthosts(self) -> list[str | tuple[str, int]]:
        """The addresses of the smart-host door."""
        return [_where(text) for text in self._config.get("smarthost", {}).get("listen", ())]

    # ------------------------------------------------------------ life

    def command(self) -> Sequence[str]:
        return [self._python, "-m", "gateway", "serve", "--config", str(self.file)]

    def environment(self) -> Mapping[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        return {**os.environ, "PYTHONPATH": path, **self._environment}

    def start(self) -> Gateway:
        begin = time.monotonic()
        super().start()
        self.started_in = time.monotonic() - begin
        return self

    def stop(self, seconds: float = 40.0) -> int | None:
        """Send TERM and wait for the drain; by force, workers too, after `seconds`."""
        workers = self.tree()[1:] if self.process else []
        status = super().stop(seconds)
        if status is not None and status < 0:  # killed: its workers may hang as well
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return status

    def is_up(self) -> bool:
        """Whether every door answers in its protocol; a bound socket alone does not count."""
        return all(map(_milter_answers, self.milters)) and all(map(_smtp_answers, self.smarthosts))

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of a log in JSON that tell of `event`, but for one that is being written."""
        written = self.log.read_text("utf-8", "replace").splitlines(keepends=True)
        lines = [json.loads(line) for line in written if line.startswith("{") and line.endswith("}\n")]
        return [line for line in lines if line["event"] == event]

    def reload(self) -> None:
        """Send HUP."""
        assert self.process
        self.process.send_signal(signal.SIGHUP)


def to_toml(config: Mapping[str, Any]) -> str:
    """Write nested mappings as TOML."""
    plain = [f"{key} = {_value(value)}" for key, value in config.items() if not isinstance(value, dict)]
    tables = [
        f"\n[{key}]\n" + "\n".join(f"{name} = {_value(item)}" for name, item in value.items())
        for key, value in config.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*plain, *tables]) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value))


def _where(text: str) -> str | tuple[str, int]:
    """Read "unix:/path", "inet:host:port" or "host:port"."""
    if text.startswith("unix:"):
        return text.removeprefix("unix:")
    host, _, port = text.removeprefix("inet:").rpartition(":")
    return host.strip("[]"), int(port)


def _milter_answers(address: str | tuple[str, int]) -> bool:
    try:
        MilterClient(address, timeout=5).close()
    except (OSError, ProtocolError):
        return False
    return True


def _smtp_answers(address: str | tuple[str, int]) -> bool:
    assert not isinstance(address, str)
    try:
        with socket.create_connection(address, timeout=5) as probe:
            answered = probe.recv(512).startswith(b"220")
            probe.sendall(b"QUIT\r\n")
            return answered
    except OSError:
        return False
