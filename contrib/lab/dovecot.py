# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Dovecot that serves IMAP from Maildirs of its own, with and without TLS.

Wrong passwords cost no time: else what it waits after some of them comes near the time-outs of who asks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from contrib.lab.process import Server, free_port, listens, program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrib.lab.certificates import Pair

PASSWORD = 'päss "word\\'  # of all accounts of the lab; awkward on purpose
_CONFIG = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
mail_location = maildir:{directory}/mail/%u
first_valid_uid = 1
mail_max_userip_connections = 50
passdb {{
  driver = passwd-file
  args = scheme=plain-hex username_format=%u {directory}/users
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={directory}/home/%u
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {clear}
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
"""


class Dovecot(Server):
    """IMAP over TLS on `port`, in clear with STARTTLS on `clear`; accounts and their mail in `directory`."""

    name = "dovecot"

    def __init__(self, directory: Path, pair: Pair, *users: str, mechanisms: str = "plain login") -> None:
        super().__init__(directory)
        self.port, self.clear = free_port(), free_port()
        mail = self.directory / "mail"
        mail.mkdir(exist_ok=True)
        (self.directory / "home").mkdir(exist_ok=True)
        os.chown(mail, 65_534, 65_534)
        self.directory.joinpath("users").write_text(
            "".join(f"{user}:{{PLAIN.HEX}}{PASSWORD.encode().hex()}\n" for user in users)
        )
        self.config = self.directory / "dovecot.conf"
        self.config.write_text(
            _CONFIG.format(
                directory=self.directory,
                certificate=pair.certificate,
                key=pair.key,
                mechanisms=mechanisms,
                user=65_534,
                group=65_534,
                clear=self.clear,
                port=self.port,
            )
        )

    def command(self) -> Sequence[str]:
        return [program("dovecot") or "dovecot", "-F", "-c", str(self.config)]

    def is_up(self) -> bool:
        # The ports are there first; the socket of the auth service comes a moment later.
        there = (self.directory / "run" / "auth-client").exists()
        return there and listens(("127.0.0.1", self.port)) and listens(("127.0.0.1", self.clear))
