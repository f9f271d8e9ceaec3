# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: what is right is taken, what is wrong is refused with file, line and mend."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrib.lab.gateway import to_toml
from gateway import assembly
from gateway.config import SIZE_LIMIT, Config, ConfigError, load, locate, placed

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = """\
domains = ["example.com"]
next_hop = "smtp:127.0.0.1:25"

[milter]
listen = ["inet:127.0.0.1:10025"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mailwarden.toml"


def refused(file: Path, text: str | bytes) -> str:
    """Load a text; return the refusal without the file's name, which must stand before it."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    said = str(caught.value)
    assert said.startswith(f"{file}:")
    assert "\n" not in said
    return said.removeprefix(f"{file}:")


def test_minimal(file: Path) -> None:
    """A file of under ten lines works, and everything else has a safe default."""
    file.write_text(MINIMAL)
    config = load(file)
    assert config.milter.listen == ("inet:127.0.0.1:10025",)
    assert config.smarthost.listen == ()
    assert config.antivirus.enabled
    assert not config.spamassassin.enabled
    assert config.auth.spf
    assert config.auth.dkim
    assert config.auth.dmarc
    assert config.relay_networks == ()
    assert config.smarthost.xclient_networks == ()
    assert config.http.listen.startswith("127.0.0.1:")
    assert config.authserv == config.name


def test_empty(file: Path) -> None:
    file.write_text("")
    assert load(file) == Config()


def test_names() -> None:
    assert Config(hostname="mx.example.org").authserv == "mx.example.org"
    assert Config(hostname="mx.example.org", authserv_id="example.org").authserv == "example.org"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Unknown keys, at every depth, with the likely mend.
        ("hostnam = 'x'", "1: unknown key hostnam; did you mean hostname?"),
        ("# first\n\n[milter]\nworkres = 2\n", "4: unknown key workres in [milter]; did you mean workers?"),
        ("[milter]\nxyzzy = 1", "2: unknown key xyzzy in [milter]; known here: "),
        ("[miltr]\nlisten = []", "1: unknown key miltr; did you mean milter?"),
        ("milter.wokers = 1", "1: unknown key wokers in [milter]; did you mean workers?"),
        (
            "[policy]\n[policy.threshold]\ntag = 1",
            "2: unknown key threshold in [policy]; did you mean thresholds?",
        ),
        ("[policy.thresholds]\ntags = 1", "2: unknown key tags in [policy.thresholds]; did you mean tag?"),
        (
            "[[routes]]\ndomains = ['a']\nnext_hop = 'smtp:a:25'\n[[routes]]\ndomain = ['b']\n",
            "5: unknown key domain in [routes",
        ),
        (
            "[[policy.recipients]]\nrecipients = ['a@example.com']\nspam = 1\n",
            "3: unknown key spam in [policy.recipients",
        ),
        ("[[tls.inbound]]\nlevel = 1\n", "2: unknown key level in [tls.inbound"),
        # Values of a wrong type or out of range.
        ("[milter]\nlisten = []\nworkers = '2'\n", "3: milter.workers: Expected `int`, got `str`"),
        ("[milter]\nworkers = 0\n", "2: milter.workers: Expected `int` >= 1"),
        ("deadline = -1", "1: deadline: Expected `float` > 0"),
        ("domains = 'example.com'", "1: domains: Expected `array`, got `str`"),
        ("domains = [1]", "1: domains"),
        ("[antivirus]\nenabled = 'no'\n", "2: antivirus.enabled: Expected `bool`, got `str`"),
        ("[policy.weights]\nSPF_FAIL = 'high'\n", "2: policy.weights.SPF_FAIL: Expected `float`, got `str`"),
        (
            "[policy.actions]\nVIRUS = 'drop'\n",
            "2: policy.actions.VIRUS: Invalid enum value 'drop'; it is one of ",
        ),
        ("[policy.on_error]\nVIRUS = 'reject'\n", "2: policy.on_error.VIRUS: Invalid enum value 'reject'"),
        ('[policy]\nsubject_tag = "a\\nb"\n', "2: policy.subject_tag"),
        ("[milter]\nsocket_mode = '777'\n", "2: milter.socket_mode"),
        # Values that only their own reader can judge: the line that holds what is quoted, or the table's.
        ("a = 1\n", "1: unknown key a"),
        ("next_hop = 'mail.example.com'", "1: "),
        ("relay_networks = ['192.0.2.1/24']", "1: "),
        ("[dns]\nnameservers = ['dns.example.com']\n", "2: dns: "),
        ("[release]\nnext_hop = 'here'\n", "2: release: "),
        ("[[routes]]\ndomains = ['a']\nnext_hop = 'x'\n", "3: routes.0: "),
        ("[antivirus]\naddresses = []\n", "1: antivirus: "),
        ("user = 'a'\nrelay_networks = [\n 'a/1',\n]\n", "3: "),
        ("# '192.0.2.1/24'\nrelay_networks = ['192.0.2.1/24']", "2: "),
        ("hostname = 'mx example'\n", "1: hostname: "),
        ('user = "a"\nauthserv_id = "mx\\r\\nX: y"\n', "2: authserv_id: "),
        ("domains = ['a.example', '*.a.example']", '1: "*.a.example" is no domain; write "example.com"'),
        ("domains = ['@example.com']", "1: "),
        ("domains = ['example.com.']", "1: "),
        ("[[routes]]\ndomains = ['a b']\nnext_hop = 'smtp:a:25'\n", "2: routes.0: "),
        ("[[tls.inbound]]\nsender_domains = ['*.a.example']\n", "2: tls.inbound.0: "),
        ("[[tls.outbound]]\ndomains = ['*.a.example']\n", "2: tls.outbound.0: "),
        ("[milter]\nlisten = ['inet:mx']\n", '2: "mx" is not host:port'),
        ("[milter]\nlisten = ['127.0.0.1:99999']\n", "2: "),
        ("[milter]\nlisten = ['unix:relative']\n", "2: "),
        ("[milter]\nlisten = ['inet:127.0.0.1:25', '127.0.0.1:25']\n", "2: "),
        ("[smarthost]\nlisten = ['127.0.0.1:25']\n[milter]\nlisten = ['inet:127.0.0.1:25']\n", "2: "),
        ("[milter]\nlisten = ['inet:127.0.0.1:9464']\n", '2: "127.0.0.1:9464" is listened on twice'),
        ("[http]\nlisten = 'localhost'\n", '2: "localhost" is not host:port'),
        ("[store]\ndatabase = '/var/lib/mailwarden.db'\n", '2: database "/var/lib/mailwarden.db" is no URL'),
        ("[store]\ndatabase = 'sqlite:mail.db'\n", '2: database "sqlite:mail.db" is no URL'),
        ("[smarthost]\nkey = 'key.pem'\n", "1: smarthost: there is a key without a certificate"),
        # Words of a closed set, lists, and keys that stand in another table.
        ("[log]\nlevel = 'debugg'\n", "2: log.level: Invalid enum value 'debugg'; did you mean \"debug\"?"),
        (
            "[dnsbl]\n[[dnsbl.zones]]\nzone = 'a.example'\nask = ['clint']\n",
            "4: dnsbl.zones.0.ask.0: Invalid enum",
        ),
        ("[policy.weights]\nA = 1\nB = 2000\n", "3: policy.weights.B: Expected `float` <= 1000.0"),
        ("[milter]\nlisten = 'a'\n", '2: milter.listen: Expected `array`, got `str`; write a list: ["..."]'),
        (
            "[store]\nnext_hop = 'mx'\n",
            "2: unknown key next_hop in [store]; it belongs to the top of the file",
        ),
        ("[http]\nworkers = 2\n", "2: unknown key workers in [http]; it belongs to [milter] or [smarthost]"),
        # Not TOML.
        ("[milter\n", "1: not TOML: "),
        ("hostname = 'a'\nhostname = 'b'\n", "2: not TOML: "),
        ("a = 1\nb = \n", "2: not TOML: "),
        (b"# comment\nhostname = '\xff'\n", "2: not UTF-8"),
    ],
)
def test_refusals(file: Path, text: str | bytes, expected: str) -> None:
    """Line and reason; the mend where there is a likely one."""
    assert refused(file, text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("next_hop = 'mail.example.com'", "smtp:host:port"),
        ("relay_networks = ['192.0.2.1/24']", "write '192.0.2.0/24'"),
        ("[dns]\nnameservers = ['dns.example.com']\n", "dns.example.com"),
        ("[[routes]]\ndomains = ['a']\nnext_hop = 'x'\n", "smtp:host:port"),
        ("[antivirus]\naddresses = []\n", "addresses must not be empty"),
        ("[policy.actions]\nVIRUS = 'drop'\n", "drop"),
    ],
)
def test_refusals_name_what_is_wrong(file: Path, text: str, word: str) -> None:
    assert word in refused(file, text)


@pytest.mark.parametrize(
    ("text", "message", "expected"),
    [
        (
            "[policy.actions]\nVIRUS = 'tag'\nDMARC_REJCT = 'tag'\n",
            "[policy.actions] DMARC_REJCT: no such signal",
            3,
        ),
        (
            "[policy]\n[policy.thresholds]\ntag = 9\n",
            "[policy.thresholds]: tag, quarantine and reject must ascend",
            2,
        ),
        (
            "[[policy.recipients]]\nrecipients = ['a']\n[[policy.recipients]]\nrecipients = ['b@c']\n",
            "[[policy.recipients]] 'b@c': tag, quarantine and reject must ascend",
            4,
        ),
        ("user = 'a'\n[smarthost]\ncertificate = '/x'\n", "smarthost: certificate: '/x'", 3),
        ("[tls]\n[[tls.outbound]]\nca_file = '/x'\n", "tls.outbound.0: ca_file '/x': No such file", 3),
        ("next_hop_logins = '/x'\n", "next_hop_logins: /x: No such file", 1),
        ("user = 'a'\n", "classifier: no model", None),
        ("user = 'a'\n", "no door is open", None),
    ],
)
def test_lines_of_what_is_found_later(file: Path, text: str, message: str, expected: int | None) -> None:
    """Rules, certificates and keys are read after the file; what is wrong with them has its line, too."""
    file.write_text(text)
    where = f"{file}:{expected}" if expected else str(file)
    assert placed(file, message) == f"{where}: {message}"


def test_ca_files_are_opened(file: Path) -> None:
    """Before a delivery needs them."""
    text = "[[tls.outbound]]\ndomains = ['a.example']\nlevel = 'verify'\nca_file = '/no/such/file'\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r":4: tls\.outbound\.0: ca_file '/no/such/file': No such file"):
        assembly.load(load(file), path=file)


def test_another_file_has_its_own_lines(file: Path) -> None:
    file.write_text("user = 'a'\n")
    assert (
        placed(file, "/etc/rules/signals.toml: no such signal") == "/etc/rules/signals.toml: no such signal"
    )


def test_byte_order_mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfuser = 'a'\n")
    assert load(file).user == "a"


@pytest.mark.parametrize("text", ["example.com", ".example.com", "bücher.example", "localhost", "_x.example"])
def test_domains(file: Path, text: str) -> None:
    """Both forms of a domain, and U-labels, are taken."""
    file.write_text(to_toml({"domains": [text]}))
    assert load(file).domains == (text,)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; name another one with --config"):
        load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)


def test_too_large(file: Path) -> None:
    file.write_bytes(b"#" * (SIZE_LIMIT + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(file)


def test_deep(file: Path) -> None:
    """Nesting that would end the reader's stack is an error like any other."""
    file.write_text("a = " + "[" * 5000)
    with pytest.raises(ConfigError, match="not TOML"):
        load(file)


TEXT = """\
hostname = "a"  # milter.workers = 1

[milter]
# workers = 1
listen = [
  "workers = 2",
]
workers = 2

[[tls.inbound]]
sender_domains = ["a"]

[[tls.inbound]]
sender_domains = ["b"]
minimum_version = "x"

[policy.thresholds]
tag = 1
["smarthost"]
"listen" = []
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["hostname"], 1),
        (["milter"], 3),
        (["milter", "workers"], 8),
        (["milter", "missing"], 3),
        (["tls", "inbound", "0", "sender_domains"], 11),
        (["tls", "inbound", "1", "sender_domains"], 14),
        (["tls", "inbound", "1", "minimum_version"], 15),
        (["policy", "thresholds", "tag"], 18),
        (["smarthost", "listen"], 20),
        (["nothing"], 1),
        ([], 1),
    ],
)
def test_locate(keys: list[str], line: int) -> None:
    assert locate(TEXT, keys) == line


# ---------------------------------------------------------------- anything at all

_known = [
    "milter",
    "smarthost",
    "dns",
    "policy",
    "weights",
    "recipients",
    "routes",
    "tls",
    "inbound",
    "listen",
]
_keys = st.sampled_from([*_known, "deadline", "store", "x", "a b", "ü", "", "a.b", "0", "`", "$"])
_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**40), 2**40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=3)),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(st.dictionaries(_keys, _values, max_size=4))
def test_any_table(file: Path, table: dict[str, Any]) -> None:
    """A configuration is taken, or refused with one line that begins with file and line."""
    quoted = {json.dumps(key): value for key, value in table.items()}
    file.write_text(to_toml(_requoted(quoted)))
    try:
        load(file)
    except ConfigError as error:
        head, _, rest = str(error).removeprefix(f"{file}:").partition(":")
        assert head.isdecimal()
        assert rest.strip()


def _requoted(value: dict[str, Any]) -> dict[str, Any]:
    """Tables one level down are written as sections, so their keys need quotes as well."""
    return {
        key: {json.dumps(name): item for name, item in inner.items()} if isinstance(inner, dict) else inner
        for key, inner in value.items()
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_octets(file: Path, octets: bytes) -> None:
    file.write_bytes(octets)
    said = f"{file}:"
    try:
        load(file)
    except ConfigError as error:
        said = str(error)
    assert said.startswith(f"{file}:")
