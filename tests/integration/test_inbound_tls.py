# SPDX-License-Identifier: GPL-2.0-or-later
"""Inbound TLS of a real gateway: certificates renewed on HUP, and what client certificates are good for."""

from __future__ import annotations

import contextlib
import shutil
import smtplib
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port, wait_for
from contrib.lab.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.certificates import Pair

pytestmark = pytest.mark.server()
LETTER = b"From: a@example.net\r\nSubject: x\r\n\r\nbody\r\n"


def config(directory: Path, sink: Sink, **smarthost: Any) -> dict[str, Any]:
    return {
        "hostname": "gw.example.com",
        "domains": ["example.com"],
        "next_hop": f"smtp:{sink.address}",
        "grace": 20,
        "smarthost": {
            "listen": [f"127.0.0.1:{free_port()}"],
            "certificate": str(directory / "cert.pem"),
            "key": str(directory / "key.pem"),
            "workers": 1,
            **smarthost,
        },
        "antivirus": {"enabled": False},
        "classifier": {"enabled": False},
        "policy": {"thresholds": {"tag": 900, "quarantine": 950, "reject": 1000}},
        "http": {"listen": ""},
        "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
    }


def install(pair: Pair, directory: Path) -> None:
    shutil.copy(pair.certificate, directory / "cert.pem")
    shutil.copy(pair.key, directory / "key.pem")


@contextlib.contextmanager
def client(gateway: Gateway, context: ssl.SSLContext) -> Iterator[smtplib.SMTP]:
    where = gateway.smarthosts[0]
    assert isinstance(where, tuple)
    host, port = where
    with smtplib.SMTP(host, int(port), timeout=20) as found:
        found._host = "localhost"  # type: ignore[attr-defined]  # the name to verify
        found.starttls(context=context)
        found.ehlo()
        yield found


def shown(gateway: Gateway, context: ssl.SSLContext) -> bytes:
    with client(gateway, context) as found:
        assert isinstance(found.sock, ssl.SSLSocket)
        return found.sock.getpeercert(binary_form=True) or b""


def test_a_renewed_certificate_costs_no_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    old, new = authority.issue("localhost", file="old"), authority.issue("localhost", file="new")
    install(old, tmp_path)
    context = authority.client_context()
    failures: list[str] = []
    stop = threading.Event()

    def keep_coming(gateway: Gateway) -> None:
        while not stop.is_set():
            try:
                with client(gateway, context) as one:
                    one.sendmail("a@example.net", ["u@example.com"], LETTER)
            except (OSError, smtplib.SMTPException) as error:
                failures.append(repr(error))

    with Sink() as sink, Gateway(tmp_path, config(tmp_path, sink)) as gateway:
        assert shown(gateway, context) == old.der
        others = threading.Thread(target=keep_coming, args=(gateway,))
        with client(gateway, context) as patient:
            patient.sendmail("a@example.net", ["u@example.com"], LETTER)
            others.start()
            install(new, tmp_path)
            gateway.reload()
            wait_for(lambda: shown(gateway, context) == new.der, 30, "the new certificate")
            time.sleep(2.5)  # idle for longer than a stopping worker would wait
            patient.sendmail("a@example.net", ["u@example.com"], LETTER)
            patient.sendmail("a@example.net", ["u@example.com"], LETTER)
            stop.set()
            others.join(30)
    assert not failures


def test_client_certificates_by_name_and_fingerprint(tmp_path: Path) -> None:
    authority, others = Authority(tmp_path / "ca"), Authority(tmp_path / "others", "Another CA")
    install(authority.issue("localhost"), tmp_path)
    named = authority.issue("x", names=("partner.example.net",), client=True)
    printed = authority.issue("printed.example.net", client=True)
    unknown = authority.issue("unknown.example.net", client=True)
    foreign = others.issue("partner.example.net", client=True)
    with Sink() as sink:
        settings = config(tmp_path, sink, client_ca_file=str(authority.certificate))
        here = {"client_networks": ["127.0.0.0/8"]}
        by_name = {"client_subjects": ["partner.example.net"], "sender_domains": ["by-name.example"]}
        by_print = {"client_fingerprints": [printed.fingerprint], "sender_domains": ["by-print.example"]}
        settings["tls"] = {"inbound": [here | by_name, here | by_print]}

        def ask(pair: Pair | None, sender: str) -> int:
            with client(gateway, authority.client_context(pair)) as one:
                return one.mail(sender)[0]

        with Gateway(tmp_path, settings) as gateway:
            assert ask(named, "a@by-name.example") == 250
            assert ask(printed, "a@by-name.example") == 550
            assert ask(None, "a@by-name.example") == 550
            assert ask(printed, "a@by-print.example") == 250
            assert ask(unknown, "a@by-print.example") == 550
            assert ask(None, "a@example.net") == 250
            with pytest.raises((ssl.SSLError, OSError, smtplib.SMTPException)):
                ask(foreign, "a@example.net")
            settings["tls"]["inbound"] = [{"client_networks": ["192.0.2.0/24"], "client_certificate": True}]
            before = set(gateway.workers())
            gateway.configure(settings)
            gateway.reload()
            wait_for(lambda: not before & set(gateway.workers()), 30, "the old workers to go")
            assert ask(None, "a@by-name.example") == 250
            assert ask(foreign, "a@by-name.example") == 250, "who is not asked may have any certificate"
