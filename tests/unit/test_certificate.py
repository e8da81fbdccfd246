"""The certificate library: what it reads from disk, when it wants a new one, how it explains a refusal."""

from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from gigglekit.certificate import environment, issue, lineage, placeholder, plan, refusal
from gigglekit.certificate.errors import CertificateError, Refused, Unreadable

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
DIRECTORY = "https://acme.example/directory"
NAME = "giggles.example.test"


def write_lineage(
    config: Path,
    *,
    name=NAME,
    domains=(NAME,),
    key=None,
    days=90,
    age=10,
    server=DIRECTORY,
    webroot="/var/lib/giggles-acme",
    extra="",
    own_key=True,
):
    """Lay files on disk as certbot does, for a certificate `age` days old that lives for `days`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")]))
        .public_key(key.public_key())
        .serial_number(4711)
        .not_valid_before(NOW - age * DAY)
        .not_valid_after(NOW + (days - age) * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains]), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    written_key = key if own_key else ec.generate_private_key(ec.SECP256R1())
    key_pem = written_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    live, archive = config / "live" / name, config / "archive" / name
    for folder in (live, archive, config / "renewal"):
        folder.mkdir(parents=True, exist_ok=True)
    for kind, content in {"cert": pem, "chain": pem, "fullchain": pem, "privkey": key_pem}.items():
        (archive / f"{kind}1.pem").write_bytes(content)
        (live / f"{kind}.pem").symlink_to(f"../../archive/{name}/{kind}1.pem")
    webroots = "".join(f"{domain} = {webroot}\n" for domain in domains)
    (config / "renewal" / f"{name}.conf").write_text(
        f"version = 5.8.0\narchive_dir = {archive}\ncert = {live}/cert.pem\n[renewalparams]\nkey_type = ecdsa\nserver = {server}\n"
        f"authenticator = webroot\nwebroot_path = {webroot},\n{extra}[[webroot_map]]\n{webroots}"
    )


def wanted(**different) -> plan.Wanted:
    given = {"name": NAME, "domains": (NAME,), "directory": DIRECTORY, "webroot": Path("/var/lib/giggles-acme"), **different}
    return plan.Wanted(**given)


def reasons(config: Path, **different) -> list[str]:
    return plan.reasons(lineage.read(config, NAME), wanted(**different), NOW)


def test_fitting_certificate_needs_nothing(tmp_path):
    write_lineage(tmp_path)
    assert reasons(tmp_path) == []


def test_missing_certificate_is_requested(tmp_path):
    assert lineage.read(tmp_path, NAME) is None
    assert reasons(tmp_path) == ["there is none yet"]


@pytest.mark.parametrize(("changes", "different", "word"), [
    ({}, {"domains": (NAME, "www.example.test")}, "www.example.test"),
    ({"domains": (NAME, "old.example.test")}, {}, "old.example.test"),
    ({"server": "https://acme-staging.example/directory"}, {}, "it came from https://acme-staging.example/directory"),
    ({"key": rsa.generate_private_key(65537, 2048)}, {}, "its key is rsa instead of ecdsa"),
    ({"own_key": False}, {}, "its private key belongs to another certificate"),
    ({"age": 64}, {}, "it ends on 2026-12-18 12:00 UTC and has not been renewed"),
    ({"age": 100}, {}, "has not been renewed"),
    ({"webroot": "/srv/elsewhere"}, {}, "another folder than /var/lib/giggles-acme"),
    ({"extra": "renew_hook = /bin/evil\n"}, {}, "a command that nobody asked for (renew_hook)"),
    ({"extra": "pre_hook = /bin/evil\n"}, {}, "(pre_hook)"),
    ({"extra": "autorenew = False\n"}, {}, "its renewal is switched off"),
])  # fmt: skip
def test_each_difference_is_a_reason(tmp_path, changes, different, word):
    write_lineage(tmp_path, **changes)
    found = reasons(tmp_path, **different)
    assert len(found) == 1
    assert word in found[0]


@pytest.mark.parametrize(("days", "still_fine", "due"), [(90, 62, 64), (45, 31, 32), (6, 4, 5)])
def test_renewal_is_due_by_the_share_of_the_lifetime_that_is_left(tmp_path, days, still_fine, due):
    """certbot's timer renews at a third; the state waits a little longer, whatever the lifetime."""
    for age, expected in ((still_fine, False), (due, True)):
        config = tmp_path / str(age)
        write_lineage(config, days=days, age=age)
        found = lineage.read(config, NAME)
        assert found is not None
        assert plan.due(found, NOW) is expected


def test_names_without_an_own_webroot_are_renewed_through_the_common_one(tmp_path):
    write_lineage(tmp_path)
    conf = tmp_path / "renewal" / f"{NAME}.conf"
    conf.write_text(conf.read_text().replace(f"{NAME} = /var/lib/giggles-acme\n", ""))
    assert reasons(tmp_path) == []


@pytest.mark.parametrize("damage", ["conf gone", "conf garbage", "link replaced", "archive gone"])
def test_lineage_that_certbot_would_stumble_over_is_not_sound(tmp_path, damage):
    write_lineage(tmp_path)
    conf, link = tmp_path / "renewal" / f"{NAME}.conf", tmp_path / "live" / NAME / "chain.pem"
    if damage == "conf gone":
        conf.unlink()
    elif damage == "conf garbage":
        conf.write_text("\0[[[")
    elif damage == "link replaced":
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    else:
        (tmp_path / "archive" / NAME / "chain1.pem").unlink()
    assert any("damaged" in reason for reason in reasons(tmp_path))


def test_unreadable_certificate_says_so(tmp_path):
    write_lineage(tmp_path)
    (tmp_path / "archive" / NAME / "fullchain1.pem").write_text("not a certificate")
    with pytest.raises(Unreadable, match="cannot be read"):
        lineage.read(tmp_path, NAME)


def test_summary_holds_no_key(tmp_path):
    write_lineage(tmp_path)
    summary = str(lineage.read(tmp_path, NAME).summary())
    assert "PRIVATE" not in summary
    assert NAME in summary


class TestPlaceholder:
    def test_created_pair_is_fine_and_private(self, tmp_path):
        folder = tmp_path / "tls" / "placeholder"
        assert placeholder.faults(folder, NOW) == ["fullchain.pem does not exist"]
        placeholder.create(folder, NOW)
        assert placeholder.faults(folder, NOW) == []
        assert stat.S_IMODE((folder / "privkey.pem").stat().st_mode) == 0o600
        assert sorted(path.name for path in folder.iterdir()) == ["fullchain.pem", "privkey.pem"]

    def test_lasts_ten_years(self, tmp_path):
        placeholder.create(tmp_path, NOW)
        assert placeholder.faults(tmp_path, NOW + 365 * 9 * DAY) == []
        assert placeholder.faults(tmp_path, NOW + 365 * 10 * DAY) == ["it expires soon"]

    def test_swapped_key_is_noticed(self, tmp_path):
        placeholder.create(tmp_path, NOW)
        certificate = (tmp_path / "fullchain.pem").read_bytes()
        placeholder.create(tmp_path, NOW)
        (tmp_path / "fullchain.pem").write_bytes(certificate)
        assert placeholder.faults(tmp_path, NOW) == ["key and certificate do not belong together"]

    def test_damaged_pair_is_noticed(self, tmp_path):
        placeholder.create(tmp_path, NOW)
        (tmp_path / "privkey.pem").write_text("garbage")
        assert "cannot be read" in placeholder.faults(tmp_path, NOW)[0]

    @pytest.mark.skipif(os.getuid() != 0, reason="owners are root's to give")
    def test_exposed_key_is_closed_again(self, tmp_path):
        placeholder.create(tmp_path, NOW)
        tmp_path.chmod(0o700)
        (tmp_path / "privkey.pem").chmod(0o644)
        assert placeholder.wrong_modes(tmp_path) == {tmp_path / "privkey.pem": 0o600}
        placeholder.repair_modes(tmp_path)
        assert placeholder.wrong_modes(tmp_path) == {}

    def test_unwritable_folder_is_explained(self, tmp_path):
        blocked = tmp_path / "file"
        blocked.touch()
        with pytest.raises(CertificateError, match="nginx cannot start without one"):
            placeholder.create(blocked / "placeholder", NOW)


class TestRefusal:
    def test_wait_doubles_up_to_half_a_day(self):
        last, waits = None, []
        for _ in range(9):
            last = refusal.following(last, "request", "no", 1000.0)
            waits.append(last.next_at - last.at)
        assert waits[:4] == [900, 1800, 3600, 7200]
        assert waits[-1] == 12 * 3600

    def test_same_request_waits_and_another_does_not(self):
        note = refusal.following(None, "request", "no", 1000.0)
        assert refusal.waiting(note, "request", 1100.0)
        assert not refusal.waiting(note, "other", 1100.0)
        assert not refusal.waiting(note, "request", 1900.0)
        assert not refusal.waiting(None, "request", 1100.0)

    def test_clock_set_back_does_not_block_for_ever(self):
        assert not refusal.waiting(refusal.following(None, "request", "no", 10_000.0), "request", 500.0)

    def test_time_that_the_authority_names_counts(self):
        assert refusal.following(None, "request", "no", 1000.0, retry_at=99_000.0).next_at == 99_000.0

    def test_note_survives_on_disk_and_damage_does_no_harm(self, tmp_path):
        path = tmp_path / "work" / "note.json"
        note = refusal.following(None, "request", "no", 1000.0)
        refusal.write(path, note)
        assert refusal.read(path) == note
        path.write_text('{"attempts": "many"')
        assert refusal.read(path) is None
        refusal.forget(path)
        refusal.forget(path)
        assert not path.exists()

    def test_whatever_changes_the_request_changes_its_fingerprint(self):
        fingerprints = {
            wanted(**different).fingerprint()
            for different in (
                {},
                {"domains": (NAME, "b.test")},
                {"directory": "https://other.test/d"},
                {"ca_bundle": Path("/ca")},
                {"email": "a@b.test"},
                {"key_type": "rsa"},
            )
        }
        assert len(fingerprints) == 6


VALIDATION = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Identifier: giggles.example.test
  Type:   {kind}
  Detail: {detail}

Hint: The Certificate Authority failed to download the temporary challenge files created by Certbot.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org.
"""
UNEXPECTED = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
An unexpected error occurred:
{text}
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile for more details.
"""


FETCH = f"192.0.2.1: Fetching http://{NAME}/"
LIMIT = "too many certificates (5) already issued for this exact set of identifiers, retry after 2026-11-23 10:00:00 UTC"


@pytest.mark.parametrize(("output", "said", "remedy"), [
    (VALIDATION.format(kind="dns", detail=f"DNS problem: NXDOMAIN looking up A for {NAME}"), "NXDOMAIN", "Let the A record"),
    (VALIDATION.format(kind="connection", detail=f"{FETCH}: Connection refused"), "Connection refused", "on port 80"),
    (VALIDATION.format(kind="unauthorized", detail=f"Invalid response from http://{NAME}/: 404"), "404", "Another server answered"),
    (VALIDATION.format(kind="caa", detail="CAA record for example.test prevents issuance"), "CAA record", "A CAA record forbids"),
    (VALIDATION.replace("Identifier", "Domain").format(kind="caa", detail="of an older certbot"), "of an older certbot", "CAA"),
    (VALIDATION.format(kind="connection", detail='could not resolve URL "http://a"'), "could not resolve", "Let the A record"),
    (UNEXPECTED.format(text="Account https://a.test/acct/1 not found"), "not found", "move /etc/letsencrypt/accounts away"),
    (UNEXPECTED.format(text=LIMIT), "too many certificates", "staging directory"),
    (UNEXPECTED.format(text="requests.exceptions.ConnectionError: Connection refused"), "ConnectionError", "cannot be reached from here"),
    (UNEXPECTED.format(text="requests.exceptions.SSLError: CERTIFICATE_VERIFY_FAILED"), "SSLError", "ca_bundle"),
    (UNEXPECTED.format(text="OSError: [Errno 28] No space left on device"), "No space left", "Free space"),
    ("Something new\n", "Something new", "See /logs/letsencrypt.log."),
    ("", "certbot said nothing", "See /logs/letsencrypt.log."),
])  # fmt: skip
def test_refusal_is_one_paragraph_with_cause_and_remedy(output, said, remedy):
    text = issue.explain(output, wanted(), Path("/logs"))
    assert "\n" not in text
    assert f"No certificate for {NAME} could be had from {DIRECTORY}" in text
    assert said in text
    assert remedy in text
    assert "keeps serving" in text


def test_time_to_come_back_is_understood():
    assert (
        issue.retry_time("… retry after 2026-11-23 10:00:00 UTC: see")
        == datetime.datetime(2026, 11, 23, 10, tzinfo=datetime.timezone.utc).timestamp()
    )
    assert issue.retry_time("no such thing") is None


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def tool(tmp_path: Path, script: str) -> issue.Certbot:
    return issue.Certbot(program(tmp_path / "certbot", script), tmp_path / "config", tmp_path / "work", tmp_path / "logs")


def test_request_names_everything_and_trusts_the_private_authority(tmp_path):
    certbot = tool(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/arguments; printf "%s" "$REQUESTS_CA_BUNDLE" > {tmp_path}/bundle')
    (tmp_path / "config").mkdir()
    issue.request(certbot, wanted(domains=(NAME, "www.example.test"), email="ops@example.test", ca_bundle=Path("/ca.pem")))
    arguments = (tmp_path / "arguments").read_text().split()
    assert {"--webroot", f"--cert-name={NAME}", f"--server={DIRECTORY}", "--key-type=ecdsa", "--email=ops@example.test"} <= set(arguments)
    assert [arguments[i + 1] for i, word in enumerate(arguments) if word == "-d"] == [NAME, "www.example.test"]
    assert (tmp_path / "bundle").read_text() == "/ca.pem"


def test_refusal_puts_damaged_remnants_back(tmp_path):
    certbot = tool(tmp_path, f"test ! -e {tmp_path}/config/live/{NAME} || echo still there; echo no >&2; exit 1")
    write_lineage(tmp_path / "config")
    (tmp_path / "config" / "renewal" / f"{NAME}.conf").unlink()
    before = sorted(str(path) for path in (tmp_path / "config").rglob("*"))
    with pytest.raises(Refused) as caught:
        issue.request(certbot, wanted())
    assert "still there" not in str(caught.value)
    assert sorted(str(path) for path in (tmp_path / "config").rglob("*")) == before


def test_missing_program_is_explained(tmp_path):
    certbot = issue.Certbot(tmp_path / "none", tmp_path, tmp_path, tmp_path)
    with pytest.raises(CertificateError, match="certbot is not installed"):
        issue.request(certbot, wanted())


class TestEnvironment:
    def make(self, tmp_path, uv_script):
        lock = tmp_path / "certbot.txt"
        lock.write_text("certbot==5.8.0 --hash=sha256:00\n")
        return environment.Environment(tmp_path / "root", lock, Path("/usr/bin/python3"), "3.11", program(tmp_path / "uv", uv_script))

    BUILDS = 'if [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python" "$last/bin/certbot"; fi'

    def test_built_once_and_older_builds_removed(self, tmp_path):
        wanted_environment = self.make(tmp_path, self.BUILDS)
        (tmp_path / "root" / "older").mkdir(parents=True)
        environment.establish(wanted_environment)
        assert wanted_environment.is_complete()
        assert wanted_environment.is_current()
        assert wanted_environment.older() == []
        wanted_environment.uv.unlink()
        environment.establish(wanted_environment)

    def test_another_lock_needs_another_build(self, tmp_path):
        first = self.make(tmp_path, self.BUILDS)
        environment.establish(first)
        folder = first.folder
        first.lock.write_text("certbot==5.9.0 --hash=sha256:00\n")
        assert not first.is_complete()
        environment.establish(first)
        assert first.folder != folder
        assert not folder.exists()

    def test_failed_build_keeps_the_old_one_in_use(self, tmp_path):
        first = self.make(tmp_path, self.BUILDS)
        environment.establish(first)
        before = first.current.readlink()
        first.lock.write_text("certbot==5.9.0 --hash=sha256:00\n")
        program(first.uv, "echo 'no route to host' >&2; exit 2")
        with pytest.raises(CertificateError, match=r"no route to host.*Check the network"):
            environment.establish(first)
        assert first.current.readlink() == before
        assert (before / "complete").exists()

    def test_missing_uv_is_explained(self, tmp_path):
        wanted_environment = self.make(tmp_path, "true")
        wanted_environment.uv.unlink()
        with pytest.raises(CertificateError, match=r"run it again"):
            environment.establish(wanted_environment)
