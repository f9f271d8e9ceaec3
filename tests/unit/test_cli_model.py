# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden model`: its commands on invented mail, their JSON, errors and exit status."""

import json
import random
from pathlib import Path
from tempfile import NamedTemporaryFile
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import cli
from gateway.cli.person import operator
from gateway.delivery import release as release_module
from gateway.delivery.relay import RecipientResult
from gateway.mail.types import Evidence, Scan, Signal
from gateway.store.database import StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.samples import Samples, SampleState
from tests.stored import hold, mail_for, verdict_for

HAM = (
    b"From: Ann <ann@example.com>\r\nTo: b@example.net\r\nSubject: Agenda\r\n\r\nPlease send the minutes.\r\n"
)


def run(*words: object, data: bytes | None = None) -> Result:
    with NamedTemporaryFile(suffix=".toml") as empty:
        return CliRunner().invoke(cli, ["--config", empty.name, "model", *map(str, words)], input=data)


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """Forty invented messages in two folders."""
    chance = random.Random(7)
    for kind, words in (
        ("ham", "agenda minutes budget kernel patch"),
        ("spam", "pills winner lottery cheap click"),
    ):
        (tmp_path / kind).mkdir()
        for number in range(20):
            text = " ".join(chance.choices(words.split(), k=8))
            raw = f"From: {kind}@example.com\nTo: b@example.net\nSubject: {text[:20]}\n\n{text} {number}\n"
            (tmp_path / kind / f"{number}.eml").write_text(raw)
    return tmp_path


def test_status_of_the_shipped_model() -> None:
    done = run("status", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert facts["model"].startswith("base-")
    assert facts["wrong"] == []
    assert "golden scores" in run("status").stdout


def test_status_of_no_model(tmp_path: Path) -> None:
    done = run("status", "--model", tmp_path)
    assert done.exit_code == 69
    assert "unavailable" in done.stderr


def test_score_a_file_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_bytes(HAM)
    rows = json.loads(run("score", "--json", tmp_path / "one.eml").stdout)
    assert rows[0]["path"].endswith("one.eml")
    assert 0 < rows[0]["probability"] < 0.5
    assert rows[0]["points"] < 0.6
    assert rows[0]["reasons"]
    piped = json.loads(run("score", "--json", "-", data=HAM).stdout)
    assert piped[0]["probability"] == rows[0]["probability"]
    shown = run("score", "--why", "-", data=HAM).stdout  # a long path would leave less room for the reasons
    assert "word “" in shown


def test_score_shows_no_terminal_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m.eml"
    path.write_bytes(HAM.replace(b"Agenda", b"\x1b[31magenda"))
    assert "\x1b" not in run("score", "--why", path).stdout


def test_score_of_a_missing_file(tmp_path: Path) -> None:
    done = run("score", tmp_path / "none.eml")
    assert done.exit_code == 66
    assert "No such file" in done.stderr


def test_train_evaluate_and_score(mail: Path) -> None:
    done = run("train", "--ham", mail / "ham", "--spam", mail / "spam", "--out", mail / "model", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["ham"] == 20
    (mail / "<b>.index").write_text("".join(f"ham ham/{n}.eml\nspam spam/{n}.eml\n" for n in range(5)))
    sets = ("--ham", mail / "ham", "--spam", mail / "spam", "--index", mail / "<b>.index")
    measured = run("evaluate", *sets, "--model", mail / "model", "--json", "--out", mail / "figures")
    answer = json.loads(measured.stdout)
    assert answer == json.loads((mail / "figures" / "evaluation.json").read_text())
    assert [(one["ham"], one["spam"]) for one in answer["sets"]] == [(20, 20), (5, 5)]
    drawn = ET.parse(mail / "figures" / "evaluation.svg")
    names = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert any("<b>.index: 5 ham, 5 spam, 1-AUC 0.0000 %" in name for name in names)
    figures = answer["sets"][0]
    assert figures["auc_loss"] == 0
    assert figures["false_positives"] == 0
    assert sum(b["count"] for b in figures["bins"]) == 40
    table = run("evaluate", "--ham", mail / "ham", "--model", mail / "model")
    assert table.exit_code == 0
    assert "Calibration" in table.stdout
    again = run("train", "--ham", mail / "ham", "--spam", mail / "spam", "--out", mail / "model")
    assert again.exit_code == 0  # a folder that holds a model is replaced


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("train", "--ham", "{mail}/ham", "--out", "{mail}/m"), 65),
        (("train", "--ham", "{mail}/ham", "--spam", "{mail}/spam", "--out", "{mail}/ham"), 73),
        (
            ("train", "--ham", "{mail}/ham", "--spam", "{mail}/spam", "--out", "{mail}/m", "--name", "../x"),
            64,
        ),
        (("evaluate",), 66),
        (("evaluate", "--index", "{mail}/ham/1.eml"), 66),
        (("score", "--model", "{mail}", "{mail}/ham/1.eml"), 69),
    ],
)
def test_errors_have_their_exit_status(mail: Path, words: tuple[str, ...], status: int) -> None:
    done = run(*(word.format(mail=mail) for word in words))
    assert done.exit_code == status, done.output
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.output


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration with a database of its own."""
    config = tmp_path / "site.toml"
    config.write_text(f'[store]\ndatabase = "sqlite:///{tmp_path}/store/mailwarden.db"\n')
    return config


def at(config: Path, *words: object, data: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["--config", str(config), "model", *map(str, words)], input=data)


def test_a_site_teaches_its_model(site: Path, mail: Path) -> None:
    assert "not active because nothing was taught" in at(site, "status", "--json").stdout
    done = at(site, "learn", "--spam", "--json", mail / "spam")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["learned"] + json.loads(done.stdout)["known"] == 20
    assert "learned no ham" in at(site, "status", "--json").stdout
    before = json.loads(at(site, "score", "--json", mail / "ham" / "1.eml").stdout)[0]["probability"]
    assert at(site, "learn", "--ham", mail / "ham").exit_code == 0
    assert "active because it has learned both kinds" in at(site, "status", "--json").stdout
    after = json.loads(at(site, "score", "--json", mail / "ham" / "1.eml").stdout)[0]
    assert after["probability"] < before
    assert "site taught" in json.dumps(after["reasons"])
    assert at(site, "learn", "--ham", "-", data=HAM).exit_code == 0
    assert "no worse" in at(site, "compare").stdout
    assert at(site, "forget", "-", data=HAM).exit_code == 0
    assert at(site, "forget", "-", data=HAM).exit_code == 66
    assert at(site, "compare").exit_code == 66  # what knew the forgotten is gone
    assert at(site, "forget").exit_code == 64
    nobody = at(site, "forget", "--source", "nobody\x1b[31m", "--json")
    assert (json.loads(nobody.stdout), nobody.exit_code) == ({"forgotten": 0}, 66)
    assert "nobody of that name has taught anything: nobody?[31m" in nobody.stderr
    assert at(site, "forget", "--bodies").exit_code == 0
    assert json.loads(at(site, "relearn", "--json").stdout) == {"relearned": 0, "removed": 0}
    assert at(site, "learn", "--ham", "-", data=HAM).exit_code == 0
    assert at(site, "rollback").exit_code == 0
    assert at(site, "promote").exit_code == 0
    assert at(site, "export", mail / "exported").exit_code == 0
    rows = [json.loads(line) for line in (mail / "exported" / "samples.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {"ham", "spam"}


def test_held_mail_teaches_the_model(site: Path, tmp_path: Path) -> None:
    settings = StoreSettings(database=f"sqlite:///{tmp_path}/store/mailwarden.db")
    database = open_database(settings)
    item = hold(Quarantine(database)).id
    database.close()
    words = ["--config", str(site), "quarantine", "learn", "--json"]
    done = CliRunner().invoke(cli, [*words, "--ham", item.lower()])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["learned"] == 1
    assert CliRunner().invoke(cli, [*words, item]).exit_code == 64
    assert CliRunner().invoke(cli, [*words, "--spam", "1M80JFSJGNG4SMAS"]).exit_code == 69


def test_a_pipe_needs_no_file_name(site: Path) -> None:
    words = ["--config", str(site), "learn", "--spam", "--json"]
    assert json.loads(CliRunner().invoke(cli, words, input=HAM).stdout)["learned"] == 1
    assert json.loads(CliRunner().invoke(cli, words, input=HAM).stdout)["known"] == 1
    assert json.loads(CliRunner().invoke(cli, words, input=b"").stdout)["unfit"] == 1


def test_release_and_delete_teach_on_request(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write_text('next_hop = "smtp:192.0.2.1:25"\nantivirus.enabled = false\n' + site.read_text())
    sent = RecipientResult("delivered", 250, "2.0.0", "Ok")
    monkeypatch.setattr(release_module, "relay_sync", lambda *a, **_: dict.fromkeys(a[3], sent))
    database = open_database(StoreSettings(database=f"sqlite:///{tmp_path}/store/mailwarden.db"))
    quarantine = Quarantine(database)
    wanted, unwanted, other = (
        hold(quarantine, mail_for(raw=raw)).id
        for raw in (HAM, HAM.replace(b"minutes", b"pills"), HAM.replace(b"minutes", b"report"))
    )
    words = ["--config", str(site), "quarantine"]
    done = CliRunner().invoke(cli, [*words, "release", "--learn", "--json", wanted])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["learning"] == {"learned": 1}
    assert json.loads(done.stdout)["items"][0]["delivered"] == {"bob@example.com": "bob@example.com"}
    done = CliRunner().invoke(cli, [*words, "delete", "--learn", unwanted, "1M80JFSJGNG4SMAS"])
    assert done.exit_code == 1, done.output  # one of them is not there
    assert "classifier: 1 learned" in done.stdout
    label = [(s.spam, s.origin, s.source) for s in Samples(database).read(SampleState.LEARNED)]
    assert label == [(False, "review", operator()), (True, "review", operator())]
    actions = [e.action for e in quarantine.history(wanted)]
    assert actions == ["held", "answered", "scheduled", "claimed", "released", "labelled"]
    assert CliRunner().invoke(cli, [*words, "release", other]).exit_code == 0
    assert Samples(database).counts() == {("learned", False): 1, ("learned", True): 1}
    database.close()


@pytest.mark.parametrize(
    ("evidence", "signals"),
    [
        (Evidence(antivirus=Scan("infected", "Win.Test.EICAR_HDB-1")), (Signal("VIRUS"),)),
        (Evidence(), (Signal("GTUBE"),)),
    ],
)
def test_held_test_mail_is_never_learned(
    site: Path, tmp_path: Path, evidence: Evidence, signals: tuple[Signal, ...]
) -> None:
    """A test string may be where only the scanner finds it."""
    database = open_database(StoreSettings(database=f"sqlite:///{tmp_path}/store/mailwarden.db"))
    mail = mail_for(raw=HAM)
    Quarantine(database).hold(
        mail, verdict_for(mail), evidence, signals, content=None, reasons=tuple(s.name for s in signals)
    )
    database.close()
    done = CliRunner().invoke(
        cli, ["--config", str(site), "quarantine", "learn", "--spam", "--json", mail.id]
    )
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["learned"], json.loads(done.stdout)["unfit"]) == (0, 1)


def test_learning_has_its_errors(site: Path, mail: Path) -> None:
    assert at(site, "learn", mail / "ham").exit_code == 64
    assert at(site, "learn", "--ham", mail / "none").exit_code == 66
    assert at(site, "compare").exit_code == 66
    assert at(site, "rollback").exit_code == 69
    site.write_text(site.read_text() + '[classifier]\nsite = "off"\n')
    assert at(site, "learn", "--ham", mail / "ham").exit_code == 69
    assert "off" in at(site, "status", "--json").stdout


def test_help_has_examples() -> None:
    assert "mailwarden model train" in run("--help").stdout


def test_learn_an_empty_folder(site: Path, tmp_path: Path) -> None:
    """Hardly what was meant: it is no success."""
    (tmp_path / "empty").mkdir()
    done = at(site, "learn", "--spam", tmp_path / "empty")
    assert done.exit_code == 66
    assert "there is no mail in what was named" in done.output
