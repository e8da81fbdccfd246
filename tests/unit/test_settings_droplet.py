"""The answers of a droplet are kept, completed and read back unchanged, and no secret is ever an argument."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit.release.dotenv import dotenv_file
from gigglekit.settings import document, droplet, remembering
from gigglekit.settings.answers import WrongAnswerError
from gigglekit.settings.machine import Machine
from gigglekit.settings.schema import nodes
from hypothesis import given
from hypothesis import strategies as st

from tests.public_keys import ed25519_key, wire

Settings = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_answers_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, node in nodes():
        monkeypatch.delenv(node.get("x-variable", "GIGGLES_NOTHING"), raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pillar" / "droplet.sls"


def run(file: Path, *arguments: str) -> int:
    return droplet.main(["--pillar", str(file), *arguments])


def held(file: Path) -> Settings:
    settings: Settings = yaml.safe_load(file.read_text())["giggles"]
    return settings


def test_a_new_file_is_private_and_its_own_secrets_are_generated(file: Path) -> None:
    assert run(file, "--set", "domain=giggles.example.test") == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.read_text().startswith("#!quiet_yaml\n")
    made = held(file)["secrets"]["app"]
    assert len(bytes.fromhex(made["ENCRYPTION_KEY"])) == 32
    assert len(made["SECRET_KEY"]) >= 32


def test_what_is_there_is_kept_and_a_second_run_writes_nothing(file: Path, right: Settings) -> None:
    droplet.write(file, right)
    file.write_text(file.read_text() + "# a comment of the operator\n")
    before = file.stat()
    assert run(file) == 0
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert run(file, "--set", "web.max_upload_mb=50") == 0
    assert held(file) == right | {"web": {"max_upload_mb": 50}}


def test_an_answer_that_gives_staging_productions_place_in_the_bucket_is_refused_at_once(
    file: Path, right: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = {"bucket": "giggles-backup", "endpoint": "https://s3.eu-central-003.backblazeb2.com", "region": "eu-central-003"}
    right["secrets"]["backup"] = {"key_id": "0031a2b3c4d5e6f0000000001", "application_key": "K003planted0application0key0abc"}
    droplet.write(file, right | {"environment": "staging", "backup": bucket})
    assert run(file, "--check") == 0
    before = file.read_text()
    assert run(file, "--set", "backup.prefix=") == 1
    said = capsys.readouterr().err
    assert "giggles:backup:prefix" in said
    assert "pillar/production.sls has the same" in said
    assert file.read_text() == before


def test_answers_come_from_file_environment_option_and_prompt(
    file: Path, tmp_path: Path, right: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text(yaml.safe_dump({"giggles": {"domain": "file.example.test", "secrets": right["secrets"]}}))
    monkeypatch.setenv("GIGGLES_DOMAIN", "environment.example.test")
    monkeypatch.setenv("GIGGLES_ADMIN_KEY", ed25519_key(1))
    monkeypatch.setattr("sys.stdin", io.StringIO("postgresql://u:typed-password@db.example.test/postgres\n"))
    assert run(file, "--answers", str(answers), "--set", "roles=hardening,web", "--stdin-value", "secrets.app.DATABASE_URL") == 0
    settings = held(file)
    assert settings["domain"] == "environment.example.test"
    assert settings["roles"] == ["hardening", "web"]
    assert settings["secrets"]["app"]["DATABASE_URL"] == "postgresql://u:typed-password@db.example.test/postgres"
    assert settings["secrets"]["app"]["SECRET_KEY"] == right["secrets"]["app"]["SECRET_KEY"]


def test_another_ssh_key_does_not_lock_out_the_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fill in (1, 2, 2):
        monkeypatch.setenv("GIGGLES_ADMIN_KEY", ed25519_key(fill))
        assert run(file) == 0
    assert held(file)["admin"]["ssh_keys"] == [ed25519_key(1), ed25519_key(2)]


def test_a_secret_as_an_argument_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "--set", "secrets.app.SECRET_KEY=planted-secret") == 1
    said = capsys.readouterr().err
    assert "GIGGLES_SECRET_KEY" in said
    assert "planted" not in said
    assert not file.exists()


def test_a_wrong_answer_is_refused_and_nothing_is_written(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("mysql://u:planted@h/d\n"))
    assert run(file, "--stdin-value", "secrets.app.DATABASE_URL") == 1
    assert run(file, "--set", "domain=https://x") == 1
    said = capsys.readouterr().err
    assert "it does not begin with postgresql://" in said
    assert "has been changed" not in said, "bootstrap.sh has installed Salt by then"
    assert said.count("Nothing has been applied.") == 2
    assert "it begins with a scheme" in said
    assert "planted" not in said
    assert not file.exists()


def test_one_wrong_key_among_right_ones_is_refused_and_nothing_is_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ecdsa = f"ecdsa-sha2-nistp256 {wire(b'ecdsa-sha2-nistp256', b'nistp256', b'4' * 65)} console"
    assert run(file, "--set", f"admin.ssh_keys={ed25519_key()}\n{ecdsa}") == 1
    assert "giggles:admin:ssh_keys:1" in capsys.readouterr().err
    assert not file.exists()


def test_what_is_missing_is_listed_for_the_prompt(file: Path, right: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    del right["domain"], right["secrets"]["app"]["DATABASE_URL"], right["secrets"]["app"]["SECRET_KEY"]
    droplet.write(file, right)
    assert run(file, "--missing") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("domain", "no"), ("secrets.app.DATABASE_URL", "yes")]
    assert all(row[1] for row in rows)


BUCKET = ["--set", "backup.bucket=giggles-backup", "--set", "backup.endpoint=https://s3.eu-central-003.backblazeb2.com"]


def test_a_bucket_asks_for_what_it_needs_and_its_region_is_taken_from_the_endpoint(
    file: Path, right: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    droplet.write(file, right)
    assert run(file, "--missing") == 0
    assert capsys.readouterr().out == ""
    assert run(file, "--set", "backup.bucket=giggles-backup") == 0
    assert run(file, "--missing") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [
        ("backup.endpoint", "no"),
        ("backup.region", "no"),
        ("secrets.backup.key_id", "yes"),
        ("secrets.backup.application_key", "yes"),
    ]
    assert run(file, *BUCKET) == 0
    assert held(file)["backup"]["region"] == "eu-central-003"
    assert run(file, "--missing") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [
        "secrets.backup.key_id",
        "secrets.backup.application_key",
    ]


def test_a_region_that_was_given_is_kept_and_of_another_server_none_is_made_up(file: Path, right: Settings) -> None:
    droplet.write(file, right)
    assert run(file, "--set", "backup.bucket=giggles-backup", "--set", "backup.endpoint=https://s3.example.test") == 0
    assert "region" not in held(file)["backup"]
    assert run(file, "--set", "backup.region=here") == 0
    assert run(file) == 0
    assert held(file)["backup"]["region"] == "here"


def test_the_application_key_is_never_an_argument(file: Path, right: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    droplet.write(file, right)
    assert run(file, "--set", "secrets.backup.application_key=planted-application-key") == 1
    said = capsys.readouterr().err
    assert "GIGGLES_BACKUP_APPLICATION_KEY" in said
    assert "planted" not in said
    assert "planted-application-key" not in file.read_text()


def test_the_application_key_comes_from_the_environment(file: Path, right: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    droplet.write(file, right)
    monkeypatch.setenv("GIGGLES_BACKUP_KEY_ID", "0031a2b3c4d5e6f0000000001")
    monkeypatch.setenv("GIGGLES_BACKUP_APPLICATION_KEY", "K003planted0application0key0abc")
    assert run(file, *BUCKET) == 0
    assert held(file)["secrets"]["backup"] == {
        "key_id": "0031a2b3c4d5e6f0000000001",
        "application_key": "K003planted0application0key0abc",
    }
    assert run(file, "--check") == 0


def test_the_whole_pillar_is_checked(file: Path, right: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    droplet.write(file, right)
    assert run(file, "--check") == 0
    droplet.write(file, right | {"domain": "10.0.0.1"})
    assert run(file, "--check") == 1
    said = capsys.readouterr().err
    assert "giggles:domain: it is an IP address" in said
    assert str(file) in said


def test_a_value_is_printed_unless_it_is_a_secret(file: Path, right: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    droplet.write(file, right)
    assert run(file, "--get", "domain") == 0
    assert run(file, "--get", "giggles:roles") == 0
    assert (
        capsys.readouterr().out
        == 'giggles.example.test\n["hardening", "vault", "app", "web", "nightly", "backup", "monitoring", "converge"]\n'
    )
    assert run(file, "--get", "secrets.app.SECRET_KEY") == 1
    assert "planted" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("content", ["#!yaml|gpg\ngiggles: {}\n", "giggles: {domain: '{{ grains.fqdn }}'}\n"])
def test_a_file_that_would_lose_its_meaning_is_not_rewritten(content: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(content)
    assert run(file, "--set", "domain=giggles.example.test") == 1
    assert file.read_text() == content


@pytest.mark.parametrize("line", ["SECRET_KEY: *planted", "SECRET_KEY: a: planted", 'SECRET_KEY: "planted'])
def test_a_mistake_in_the_file_is_told_without_quoting_it(line: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.parent.mkdir()
    file.write_text(f"#!quiet_yaml\ngiggles:\n  secrets:\n    app:\n      {line}\n")
    assert run(file) == 1
    said = capsys.readouterr().err
    assert "is not YAML (line" in said
    assert "planted" not in said


TWICE = """\
giggles:
  domain: giggles.example.test
  secrets:
    app: {ENCRYPTION_KEY: planted-first}
  secrets:
    monitoring: {smtp_user: planted-second}
"""


def test_a_section_that_is_there_twice_is_refused_since_the_first_would_be_lost(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    file.write_text("#!quiet_yaml\n" + TWICE)
    answers = tmp_path / "answers.yaml"
    answers.write_text(TWICE)
    for name, line, arguments in ((file, 6, ()), (answers, 5, ("--answers", str(answers)))):
        assert run(name if name == file else tmp_path / "other.sls", *arguments) == 1
        said = capsys.readouterr().err
        assert f"{name} has the same key twice (line {line}," in said
        assert "planted" not in said
    assert file.read_text() == "#!quiet_yaml\n" + TWICE
    assert not (tmp_path / "other.sls").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("#!quiet_yaml\ngiggles:\n  app:\n   ref: planted: x\n", "is not YAML (line 4,"),
        ("giggles:\n\tapp: {}\n", "is not YAML (line 2,"),
        ("#!quiet_yaml\ngiggles:\n  app: {}\n  app: {ref: planted}\n", "has the same key twice (line 4,"),
    ],
)
def test_a_committed_file_that_cannot_be_read_is_named_and_not_what_it_seems_to_lack(
    file: Path, tmp_path: Path, right: Settings, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    choices = tmp_path / "committed"
    choices.mkdir()
    (choices / "giggles.sls").write_text(content)
    del right["app"]["repository"]
    droplet.write(file, right)
    before = file.read_text()
    for action in ("--missing", "--check", "--set=domain=other.example.test"):
        assert run(file, "--choices", str(choices), action) == 1
        said = capsys.readouterr()
        assert f"{choices / 'giggles.sls'} {words}" in said.err
        assert "planted" not in said.err
        assert said.out == ""
    assert file.read_text() == before
    # What only Salt can render is left to it.
    (choices / "giggles.sls").write_text("giggles:\n  app: {repository: {{ grains.repository }}}\n")
    assert run(file, "--choices", str(choices), "--missing") == 0
    assert capsys.readouterr().out.startswith("app.repository")


def test_a_committed_section_that_is_not_indented_is_told(
    file: Path, tmp_path: Path, right: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "giggles.sls").write_text("giggles:\nconverge: {pull: false}\n")
    droplet.write(file, right)
    assert run(file, "--choices", str(tmp_path), "--check") == 1
    assert f"Indent it below `giggles:` in {tmp_path / 'giggles.sls'}" in capsys.readouterr().err


def test_a_key_that_the_app_here_works_with_is_never_made_anew(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / ".env"
    there.write_text(dotenv_file({"ENCRYPTION_KEY": "planted", "LOG_LEVEL": "info"}))
    monkeypatch.setattr(droplet, "APP_ENVIRONMENT", there)
    assert run(file, "--set", "domain=giggles.example.test") == 1
    said = capsys.readouterr().err
    assert f"secrets.app.ENCRYPTION_KEY is not in {file}" in said
    assert str(there) in said
    assert "planted" not in said
    assert not file.exists()
    monkeypatch.setenv("GIGGLES_ENCRYPTION_KEY", "0123456789abcdef" * 4)
    assert run(file, "--set", "domain=giggles.example.test") == 0
    assert held(file)["secrets"]["app"]["ENCRYPTION_KEY"] == "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["domian", "app", "secrets", "", "x.y"])
def test_an_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(WrongAnswerError, match="no single setting"):
        droplet.parse_key(name)


VALUES = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60)
AWKWARD = st.sampled_from(
    [
        "{{ 1 }}",
        "{% raw %}",
        "#!yaml",
        "yes",
        "0x1f",
        "1e3",
        "12:30",
        "*a",
        "&a",
        "!x y",
        "a: b",
        "- a",
        "~",
        "%",
        "'",
        '"',
    ]
)


@given(VALUES | AWKWARD, AWKWARD.flatmap(lambda start: VALUES.map(lambda rest: start + rest)))
def test_whatever_a_secret_consists_of_salt_reads_it_back(first: str, second: str) -> None:
    loader = pytest.importorskip("salt.utils.yamlloader").SaltYamlSafeLoader
    chosen = {"secrets": {"app": {"SECRET_KEY": first}}, "aliases": [second, first, first]}
    text = droplet.render(chosen)
    assert yaml.load(text, Loader=loader)["giggles"] == chosen  # noqa: S506 (it is a safe loader)
    assert yaml.safe_load(text)["giggles"] == chosen


def test_a_pillar_is_only_remembered_as_it_was(tmp_path: Path, right: Settings) -> None:
    droplet_here = Machine("production", 1987)
    mark = remembering.fingerprint(right, droplet_here)
    assert not remembering.is_remembered(tmp_path, mark)
    remembering.remember(tmp_path, mark)
    assert remembering.is_remembered(tmp_path, mark)
    for other in (right | {"domain": "b.example.test"}, right | {"swap": "1"}, right | {"swap": 1}):
        assert not remembering.is_remembered(tmp_path, remembering.fingerprint(other, droplet_here))
    assert not remembering.is_remembered(tmp_path, remembering.fingerprint(right, Machine("staging", 1987)))
    assert "planted" not in (tmp_path / remembering.NAME).read_text()


def test_the_docs_are_up_to_date() -> None:
    assert document.main(["--check"]) == 0


def test_outdated_docs_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "DOCUMENT", tmp_path / "PILLAR.md")
    assert document.main(["--check"]) == 1
    assert document.main([]) == 0
    assert document.main(["--check"]) == 0


def test_the_docs_speak_of_every_setting() -> None:
    text = document.text()
    for key, node in nodes():
        assert f"`{key[-1]}`" in text or f"`{':'.join(key)}`" in text
        assert node["description"].split(". ")[0] in text
