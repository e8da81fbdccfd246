"""What bootstrap.sh looks at before it changes anything: wrong values are told in a sentence, and right ones are not refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.public_keys import ed25519_key

BOOTSTRAP = Path(__file__).resolve().parents[2] / "bootstrap.sh"
_SCRIPT = """
source <(sed '/^main$/d' "$1") --non-interactive "${@:3}"
eval "$2"
[ "${#problems[@]}" = 0 ] || printf 'PROBLEM %s\\n' "${problems[@]}"
echo "came to the end"
"""


_NO_CHANGES = 'settings_of_droplet() { printf "%s\\n" "$*"; }; install() { :; }'


def after(command: str, *arguments: str, asked: bool = False) -> str:
    """Return what is said when bootstrap.sh was started with these arguments and comes to `command`."""
    script = ["bash", "-c", _SCRIPT, "bash", str(BOOTSTRAP), f"interactive={'yes' if asked else 'no'}; {command}", *arguments]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


SECTIONS = """\
giggles:
  app:
    environment: {LAUGHTER_THRESHOLD: 0.3}
  backup:
    ca_bundle: /etc/ssl/own.pem
  environment: staging
  web:
    acme:
      # who is written to
      email: you@example.com

      ca_bundle: /etc/ssl/acme.pem
    noindex: true
"""


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "answers.yaml"


@pytest.mark.parametrize("size", ["20G", "20_000", "010240", "a[$(touch {})0]", '"20480"'])
def test_a_size_of_the_volume_that_is_no_number_ends_no_check(answers: Path, tmp_path: Path, size: str) -> None:
    touched = tmp_path / "touched"
    answers.write_text(f"giggles:\n  vault:\n    size_mb: {size.replace('{}', str(touched))}\n")
    said = after("check_system", "--answers", str(answers))
    assert said.endswith("came to the end\n")
    assert "bash:" not in said
    assert not touched.exists()


def test_all_keys_of_the_administrators_file_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "keys.pub"
    keys = [ed25519_key(number) for number in (1, 2, 3)]
    file.write_text("".join(f"{key}\n" for key in keys))
    said = after('check_admin_key; printf "%s\\n" "$admin_key"', "--admin-key", str(file))
    assert said.splitlines() == [*keys, "came to the end"]


def test_a_section_of_another_name_is_no_answer(answers: Path) -> None:
    answers.write_text(SECTIONS)
    asked = "look_up environment; look_up ca_bundle acme; look_up email acme; look_up noindex acme"
    assert after(asked, "--answers", str(answers)).splitlines() == [
        "staging", "/etc/ssl/acme.pem", "you@example.com", "came to the end"
    ]  # fmt: skip
    # JSON is YAML too.
    answers.write_text(json.dumps(yaml.safe_load(SECTIONS), indent=1))
    assert after(asked, "--answers", str(answers)).splitlines() == [
        "staging", "/etc/ssl/acme.pem", "you@example.com", "came to the end"
    ]  # fmt: skip
    answers.write_text("giggles:\n  backup: {ca_bundle: /etc/ssl/own.pem}\n  web: {acme: {email: a@b.example}, noindex: true}\n")
    assert after("look_up ca_bundle acme; look_up email acme", "--answers", str(answers)).splitlines() == [
        "a@b.example", "came to the end"
    ]  # fmt: skip


def test_the_authority_is_asked_with_its_own_certificates_and_not_with_those_of_the_bucket(answers: Path) -> None:
    answers.write_text("giggles:\n  backup:\n    ca_bundle: /etc/ssl/own.pem\n")
    asked = 'exec 3>&1; curl() { echo "asked with $*" >&3; }; check_clock_and_acme'
    said = after(asked, "--answers", str(answers))
    assert "asked with" in said
    assert "own.pem" not in said
    answers.write_text("giggles:\n  web:\n    acme:\n      ca_bundle: /etc/ssl/acme.pem\n")
    assert "acme.pem" in after(asked, "--answers", str(answers))


@pytest.mark.parametrize("date", ["Date: yesterday, or so", "Date: Mon, 01 Jan 2001 00:00:00 GMT\\r\\nDate: nonsense"])
def test_an_authority_that_tells_no_time_ends_no_check(date: str) -> None:
    said = after(f"curl() {{ printf '{date}\\r\\n'; }}; check_clock_and_acme")
    assert said.endswith("came to the end\n")
    assert "date:" not in said
    assert ("The clock is wrong" in said) is ("2001" in date)


def test_nobody_who_answers_a_question_with_nothing_is_left_without_a_word() -> None:
    said = after("look_up() { :; }; check_domain", asked=True)
    assert "PROBLEM No domain is known." in said


@pytest.mark.parametrize("mask", ["077", "027"])
def test_what_is_laid_can_be_read_by_the_accounts_of_the_droplet_whoever_lays_it(mask: str) -> None:
    script = f"umask {mask}; {_SCRIPT}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(BOOTSTRAP), "umask"], capture_output=True, text=True, check=True, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "0022"


def test_a_domain_that_git_names_is_not_copied_to_where_it_would_win_over_git(tmp_path: Path) -> None:
    # What is not given is looked for in the committed pillar too, and stays there.
    took = f"{_NO_CHANGES}; skip_dns=yes; check_domain; keep_answers"
    named = f"look_up() {{ [ $1 != domain ] || echo git.example.org; }}; {took}"
    assert "domain=" not in after(named)
    assert "--set domain=given.example.org" in after(took, "--domain", "given.example.org")


def test_a_certificate_that_is_none_is_a_line_of_the_closing_table_and_not_its_end(tmp_path: Path) -> None:
    broken = tmp_path / "fullchain.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\n")
    said = after(f'eval "$(declare -f certificate_row | sed s#/etc/nginx/tls/current/fullchain.pem#{broken}#)"; certificate_row')
    assert "MISSING" in said
    assert said.endswith("came to the end\n")


def test_the_droplets_own_file_is_no_answers_file_that_may_be_destroyed(answers: Path) -> None:
    answers.write_text("giggles: {}\n")
    kept = f"DROPLET_PILLAR={answers}; {_NO_CHANGES}; keep_answers"
    with_pillar = "sed 's/^readonly DROPLET_PILLAR/DROPLET_PILLAR/; /^main$/d'"
    script = _SCRIPT.replace("sed '/^main$/d'", with_pillar)
    for pillar, there in ((answers, True), (answers.with_name("other"), False)):
        command = ["bash", "-c", script, "bash", str(BOOTSTRAP), kept.replace(str(answers), str(pillar), 1)]
        done = subprocess.run(
            [*command, "--answers", str(answers), "--shred-answers"], capture_output=True, text=True, check=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "came to the end" in done.stdout
        assert answers.exists() is there


def test_every_question_is_asked_however_long_the_list_of_what_is_missing(tmp_path: Path) -> None:
    # The list is longer than a pipe: who closes it at the first line that fits ends whoever writes the rest.
    missing = f"""settings_of_droplet() {{
      case $1 in
        --missing) printf 'app.ref\\tRef\\tno\\nbackup.endpoint\\tEndpoint\\tno\\n'
          if [ -e {tmp_path}/begun ]; then seq 100000; else touch {tmp_path}/begun; fi ;;
        *) echo "$2 is $(cat)" ;;
      esac
    }}"""
    said = after(f"{missing}; ask_for_missing <<<$'main\\ns3.example.org'", asked=True)
    assert said.splitlines() == ["app.ref is main", "backup.endpoint is https://s3.example.org", "came to the end"]
