# SPDX-License-Identifier: GPL-2.0-or-later
"""A private slapd (OpenLDAP): users below ou=people,dc=example,dc=com, TLS at once and by StartTLS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from contrib.lab.process import Server, free_port, listens, program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrib.lab.certificates import Pair

BASE = "dc=example,dc=com"
READER, SECRET = f"cn=reader,{BASE}", "reads"  # who may look for entries
_SCHEMA = Path("/etc/ldap/schema")
_MODULES = Path("/usr/lib/ldap")
_CONFIG = """\
include {schema}/core.schema
include {schema}/cosine.schema
include {schema}/inetorgperson.schema
modulepath {modules}
moduleload back_mdb
pidfile {directory}/slapd.pid
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
allow bind_anon_cred
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{reader}" read by self read by * none
database mdb
suffix "{base}"
directory {directory}/db
maxsize 16777216
"""


class Slapd(Server):
    """LDAP on `port` (StartTLS is offered), over TLS on `secure`, and at the socket `path`.

    `entries` are records of LDIF. It takes a name without a password for an anonymous bind that succeeds
    (RFC 4513 §5.1.2), as many directories do.
    """

    name = "slapd"

    def __init__(self, directory: Path, pair: Pair, *entries: str) -> None:
        super().__init__(directory)
        self.port, self.secure = free_port(), free_port()
        self.path = self.directory / "ldapi"
        (self.directory / "db").mkdir(exist_ok=True)
        self.config = self.directory / "slapd.conf"
        self.config.write_text(
            _CONFIG.format(
                schema=_SCHEMA,
                modules=_MODULES,
                directory=self.directory,
                certificate=pair.certificate,
                key=pair.key,
                base=BASE,
                reader=READER,
            )
        )
        ldif = self.directory / "entries.ldif"
        ldif.write_text("\n".join((*_tree(), *entries)), "utf-8")
        subprocess.run(
            [program("slapadd") or "slapadd", "-f", str(self.config), "-l", str(ldif)],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def command(self) -> Sequence[str]:
        where = f"ldap://127.0.0.1:{self.port}/ ldaps://127.0.0.1:{self.secure}/ "
        where += f"ldapi://{quote(str(self.path), safe='')}/"
        return [program("slapd") or "slapd", "-d", "0", "-f", str(self.config), "-h", where]

    def is_up(self) -> bool:
        return os.path.exists(self.path) and listens(("127.0.0.1", self.secure))  # noqa: PTH110  # a socket


def person(uid: str, password: str, *lines: str) -> str:
    """The record of a user."""
    return "\n".join(
        (
            f"dn: uid={uid},ou=people,{BASE}",
            "objectClass: inetOrgPerson",
            f"uid: {uid}",
            f"cn: {uid}",
            f"sn: {uid}",
            f"userPassword: {password}",
            *lines,
            "",
        )
    )


def _tree() -> tuple[str, ...]:
    return (
        f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n",
        f"dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n",
        f"dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject",
        f"cn: reader\nuserPassword: {SECRET}\n",
    )
