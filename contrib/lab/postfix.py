# SPDX-License-Identifier: GPL-2.0-or-later
"""A private Postfix from the installed package: own configuration, queue, data and log.

Needs root, as Postfix does. Nothing of the system's instance is read but its default settings,
which are compiled in. Tests on loopback may present any client address with XCLIENT. `directory` must be
reachable by the user postfix: mode 755, and its parents too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.lab.process import Server, StartError, free_port, listens, program, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrib.lab.certificates import Authority, Pair

_MASTER = """\
pickup    unix  n  -  n  60  1  pickup
cleanup   unix  n  -  n  -   0  cleanup
qmgr      unix  n  -  n  300 1  qmgr
tlsmgr    unix  -  -  n  1000? 1 tlsmgr
rewrite   unix  -  -  n  -   -  trivial-rewrite
bounce    unix  -  -  n  -   0  bounce
defer     unix  -  -  n  -   0  bounce
trace     unix  -  -  n  -   0  bounce
verify    unix  -  -  n  -   1  verify
flush     unix  n  -  n  1000? 0 flush
proxymap  unix  -  -  n  -   -  proxymap
smtp      unix  -  -  n  -   -  smtp
relay     unix  -  -  n  -   -  smtp
lmtp      unix  -  -  n  -   -  lmtp
showq     unix  n  -  n  -   -  showq
error     unix  -  -  n  -   -  error
retry     unix  -  -  n  -   -  error
discard   unix  -  -  n  -   -  discard
anvil     unix  -  -  n  -   1  anvil
scache    unix  -  -  n  -   1  scache
postlog   unix-dgram n - n -  1  postlogd
"""
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_MASTERS = ("/usr/lib/postfix/sbin/master", "/usr/libexec/postfix/master")
_OWN = ("postfix", "root", 0o700)
_FOLDERS = {
    "queue": ("root", "root", 0o755),
    "data": _OWN,
    **{
        f"queue/{name}": _OWN
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming")
    },
    **{f"queue/{name}": _OWN for name in ("private", "saved", "trace")},
    "queue/pid": ("root", "root", 0o755),
    "queue/public": ("postfix", "postdrop", 0o710),
    "queue/maildrop": ("postfix", "postdrop", 0o730),
}


class Postfix(Server):
    """Postfix on 127.0.0.1:`self.port`.

    milter: addresses as `smtpd_milters` takes them ("inet:127.0.0.1:1234", "unix:/path").
    relay_to: "host:port" or "unix:/path" (LMTP) of what takes all mail; "" keeps mail in the queue.
    domains: what it relays for strangers. tls: certificate offered with STARTTLS; client
    certificates of `authority` are asked for and checked. submission: a second listener on
    `self.submission_port` named ORIGINATING for the filter. parameters: further main.cf settings.
    services: further lines of master.cf.
    """

    name = "postfix"

    def __init__(
        self,
        directory: Path,
        *,
        milter: str | Sequence[str] = (),
        relay_to: str = "",
        domains: Sequence[str] = ("example.org",),
        tls: Pair | None = None,
        authority: Authority | None = None,
        port: int = 0,
        submission: bool = False,
        parameters: Mapping[str, str] | None = None,
        services: Sequence[str] = (),
    ) -> None:
        super().__init__(directory)
        self.config = self.directory / "etc"
        self.log = self.directory / "postfix.maillog"
        self.port = port or free_port()
        self.submission_port = free_port() if submission else 0
        self._make_folders()
        settings = self._settings([milter] if isinstance(milter, str) else list(milter), relay_to, domains)
        settings |= _tls_settings(tls, authority) | dict(parameters or {})
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        (self.config / "main.cf").write_text("".join(lines))
        (self.config / "master.cf").write_text("\n".join([*self._listeners(), _MASTER, *services, ""]))
        self._age()

    def _age(self) -> None:
        """Date main.cf back: Postfix waits until a file it reads has not changed for two seconds."""
        before = time.time() - 10
        os.utime(self.config / "main.cf", (before, before))

    def _make_folders(self) -> None:
        """Make what Postfix's post-install would make, with its owners and modes."""
        closed = [path for path in (self.directory, *self.directory.parents) if not path.stat().st_mode & 1]
        if closed:
            raise StartError(f"the user postfix cannot reach {closed[-1]}; give it mode 755")
        self.config.mkdir(exist_ok=True)
        for name, (owner, group, mode) in _FOLDERS.items():
            folder = self.directory / name
            folder.mkdir(exist_ok=True)
            shutil.chown(folder, owner, group)
            folder.chmod(mode)

    def _settings(self, milters: Sequence[str], relay_to: str, domains: Sequence[str]) -> dict[str, str]:
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self.directory / "queue"),
            "data_directory": str(self.directory / "data"),
            "multi_instance_name": f"postfix-lab-{os.getpid()}-{self.port}",
            "multi_instance_group": "lab",
            "syslog_name": "postfix-lab",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.directory),
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "mx.example.org",
            "mydestination": "",
            "local_recipient_maps": "",
            "local_transport": "error:5.1.1 no local mail here",
            "alias_maps": "",
            "alias_database": "",
            "relay_domains": ", ".join(domains),
            "mynetworks": "127.0.0.0/8",
            "default_transport": _transport(relay_to),
            "relay_transport": _transport(relay_to),
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            "local_header_rewrite_clients": "",  # strangers' header fields stay as they are
            "smtpd_authorized_xclient_hosts": "127.0.0.0/8",
            "smtpd_authorized_xforward_hosts": "127.0.0.0/8",
            "smtpd_milters": ", ".join(milters),
            "non_smtpd_milters": ", ".join(milters),
            "milter_protocol": "6",
            "milter_default_action": "tempfail",
            "milter_connect_macros": "j {daemon_name} {daemon_addr} {daemon_port} v",
            "milter_helo_macros": "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
            "milter_mail_macros": "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host}"
            " {tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
            "message_size_limit": "60000000",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_error_sleep_time": "0",
            "in_flow_delay": "0",
            "queue_run_delay": "2s",
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "5s",
            "biff": "no",
            "append_dot_mydomain": "no",
        }

    def _listeners(self) -> list[str]:
        lines = [f"127.0.0.1:{self.port} inet n - n - - smtpd"]
        if self.submission_port:
            lines.append(
                f"127.0.0.1:{self.submission_port} inet n - n - - smtpd\n"
                "  -o syslog_name=postfix-lab/submission -o milter_macro_daemon_name=ORIGINATING"
            )
        return lines

    # ------------------------------------------------------------ life

    def command(self) -> Sequence[str]:
        # `postfix start` checks and repairs for two seconds what was just made as it should be.
        master = next((path for path in _MASTERS if Path(path).exists()), _MASTERS[0])
        return [master, "-c", str(self.config), "-d"]

    def environment(self) -> Mapping[str, str]:
        return {**_ENVIRONMENT, "MAIL_CONFIG": str(self.config)}

    def is_up(self) -> bool:
        return listens(("127.0.0.1", self.port))

    def stop(self, seconds: float = 10.0) -> int | None:
        """Stop at once; what is in the queue stays there."""
        master = self.process
        status = super().stop(seconds)
        if master:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(master.pid, signal.SIGKILL)
        return status

    def reload(self) -> None:
        """Read the configuration again."""
        assert self.process
        self.process.send_signal(signal.SIGHUP)

    def set(self, **parameters: str) -> None:
        """Change settings of main.cf and reload."""
        self._run("postconf", *(f"{key}={value}" for key, value in parameters.items()))
        self._age()
        self.reload()

    # ------------------------------------------------------------ queue and log

    def queue(self) -> list[dict[str, Any]]:
        """Return what is in the queue, as `postqueue -j` tells it."""
        listed = self._run("postqueue", "-j").stdout
        return [json.loads(line) for line in listed.splitlines() if line.strip()]

    def flush(self) -> None:
        """Try to deliver all that is deferred."""
        self._run("postqueue", "-f")

    def release(self) -> None:
        """Put all messages of the hold queue back to work."""
        self._run("postsuper", "-H", "ALL")
        self.flush()

    def wait_empty(self, seconds: float = 40.0) -> None:
        """Wait until nothing is queued; raises TimeoutError with what is left."""
        end = time.monotonic() + seconds
        while left := self.queue():
            if time.monotonic() > end:
                raise TimeoutError(f"{len(left)} messages are still queued, the first: {left[0]}")
            time.sleep(0.1)

    def lines(self, word: str = "") -> list[str]:
        """Return the lines of the log that contain `word`."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if word in line]

    def logged(self, word: str, seconds: float = 40.0) -> list[str]:
        """Wait for lines of the log that contain `word`, which another process writes; return them."""
        wait_for(lambda: bool(self.lines(word)), seconds, f"{word!r} in the log")
        return self.lines(word)

    def _run(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        where = ["-c", str(self.config)]
        return subprocess.run(
            [program(name) or name, *where, *arguments],
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
            env=_ENVIRONMENT,
        )


def _transport(relay_to: str) -> str:
    if not relay_to:
        return "retry:4.4.1 no next hop"
    if relay_to.startswith("unix:"):
        return f"lmtp:{relay_to}"
    host, _, port = relay_to.rpartition(":")
    return f"smtp:[{host}]:{port}"


def _tls_settings(tls: Pair | None, authority: Authority | None) -> dict[str, str]:
    if tls is None:
        return {"smtpd_tls_security_level": "none"}
    settings = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": f"{tls.key}, {tls.certificate}",
        "smtpd_tls_loglevel": "1",
        "smtpd_tls_received_header": "yes",
    }
    if authority:
        settings["smtpd_tls_CAfile"] = str(authority.certificate)
        settings["smtpd_tls_ask_ccert"] = "yes"
    return settings
