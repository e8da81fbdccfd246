"""Every format takes what is right and says of the rest what is wrong with it, without quoting it."""

from __future__ import annotations

import base64
import json

import pytest
from gigglekit.settings.formats import FORMATS
from hypothesis import given
from hypothesis import strategies as st


def jwt(role: str) -> str:
    def part(claims: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part({'role': role})}.c2lnbmF0dXJl"


RIGHT = {
    "host-name": ["giggles.example.com", "a.bc", "xn--bcher-kva.example", "web1.giggles.test", "1.2.3.example"],
    "mail-host": ["smtp.example.com", "localhost"],
    "email-address": ["ops@example.com", "a.b+c@example.co.uk"],
    "account-name": ["operator", "keeper", "_deploy", "a-b"],
    "time-of-day": ["00:00", "23:59", "12:30"],
    "duration": ["10m", "1h", "3600s", "2w"],
    "time-zone": ["Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"],
    "git-url": [
        "https://github.com/owner/app.git",
        "ssh://git@github.com/owner/app.git",
        "git://10.0.0.1/app",
        "file:///srv/app.git",
        "https://git.example.com:8443/app",
    ],
    "git-ref": ["22319c4" + "0" * 33, "main", "v1.2.3", "release/2026-01", "deadbeef-fix", "facade"],
    "branch-name": ["production", "release/2026-01"],
    "network": ["203.0.113.7", "203.0.113.0/24", "2001:db8:1::/48", "::1"],
    "relative-path": [".", "laughter-detector", "a/b.txt"],
    "absolute-path": ["/etc/ssl/ca.pem"],
    "command": ["python -m scripts.migrate", "alembic upgrade head", "sh -c 'a; b'"],
    "module-attribute": ["src.main:app", "main:app"],
    "python-request": ["system", "3.11", ">=3.9,<3.12", ">= 3.10"],
    "requirement": ["gotrue==2.4.1", "setuptools<81", "numpy>=1.24, <2"],
    "debian-package": ["ffmpeg", "libstdc++6", "python3-dev"],
    "https-url": ["https://acme.example.com:14000/dir"],
    "origins": ["https://a.example", "https://a.example, http://localhost:3000"],
    "supabase-url": ["https://project.supabase.co", "http://10.1.2.3:8000", "http://db.giggles.test"],
    "supabase-public-key": [jwt("anon"), "sb_publishable_0123456789", "sample-anon-key"],
    "supabase-service-key": [jwt("service_role"), "sb_secret_0123456789", "sample-service-key"],
    "postgresql-url": [
        "postgresql://user:p%40ss@db.example.com:5432/postgres",
        "postgresql://u:p@aws-0-eu.pooler.supabase.com:5432/postgres?sslmode=require",
        "postgresql://u@[::1]/postgres",
    ],
    "varied-secret": ["0123456789abcdef0123456789abcdef"],
    "hex-key": ["0123456789abcdefABCDEF0123456789" * 2],
    "time-of-week": ["Sat 10:00", "Mon 00:00"],
    "s3-endpoint": ["https://s3.eu-central-003.backblazeb2.com", "https://10.0.0.1:9443", "http://10.0.0.1:9000", "http://localhost:9000"],
    "s3-region": ["eu-central-003", "us-east-1"],
    "bucket-name": ["giggles-backup", "Giggles.2026"],
    "object-prefix": ["", "production/", "a/b_c/d.e/"],
    "schema-name": ["public", "auth", "_own1"],
    "s3-key-id": ["0031a2b3c4d5e6f0000000001", "trialaccess"],
    "s3-key": ["K003abcdefghijklmnopqrstuvwxyz0", "wJalr/XUtnFEMI+K7MDENG"],
}

WRONG = {
    "host-name": [
        ("", "empty"),
        ("https://a.example", "scheme"),
        ("10.0.0.1", "IP address"),
        ("2001:db8::1", "IP address"),
        ("a.example/", "path"),
        ("a.example:443", "port"),
        ("A.example", "capital"),
        ("a.example.", "ends with a dot"),
        ("localhost", "no dot"),
        ("*.a.example", "wildcard"),
        ("a_b.example", "underscore"),
        ("bücher.example", "ASCII"),
        ("-a.example", "a part between"),
        ("a..example", "a part between"),
        ("a" * 64 + ".example", "a part between"),
        ("a.123", "top-level"),
        (".".join(["a" * 60] * 5), "253"),
        ("a.example;", "a part between"),
        ("a example.com", "a part between"),
    ],
    "mail-host": [("mailhost", "no dot"), ("127.0.0.1", "IP address"), ("smtp.example.com:587", "port")],
    "email-address": [("ops", "no @"), ("a b@example.com", "before the @"), ("ops@localhost", "after the @")],
    "account-name": [
        ("root", "never log in"),
        ("giggles", "account of the app"),
        ("giggles-build", "releases of the app"),
        ("_apt", "operating system"),
        ("www-data", "operating system"),
        ("Anna", "not a Linux account"),
        ("a" * 32, "not a Linux account"),
        ("a;b", "not a Linux account"),
    ],
    "time-of-day": [("2:30", "one digit"), ("24:00", "time of day"), ("12:60", "time of day"), ("noon", "time of day")],
    "duration": [("10", "unit"), ("0m", "unit"), ("-1h", "unit")],
    "time-zone": [
        ("../../etc/passwd", "name"),
        ("Berlin zone", "name"),
        ("Nowhere/Atlantis", "no such"),
        ("localtime", "no such"),
        ("leapseconds", "no such"),
    ],
    "git-url": [
        ("github.com/owner/app", "no scheme"),
        ("git@github.com:owner/app.git", "scp form"),
        ("http://github.com/owner/app", "scheme is not"),
        ("https://token@github.com/owner/app", "credentials"),
        ("https://user:pw@github.com/owner/app", "credentials"),
        ("ssh://git:pw@github.com/owner/app", "credentials"),
        ("file://host/app", "absolute path"),
        ("https://github.com", "missing"),
        ("https://h:99999999/x", "not a valid"),
        ("--upload-pack=x://y", "hyphen"),
    ],
    "git-ref": [
        ("22319c4", "shortened"),
        ("A" * 40, "lower case"),
        ("-x", "cannot be"),
        ("a..b", "cannot be"),
        ("a b", "cannot be"),
        ("a.lock", "cannot be"),
        ("a/", "cannot be"),
        ("", "cannot be"),
    ],
    "branch-name": [("0123456789" * 4, "never moves"), ("22319c4", "shortened"), ("-x", "cannot be"), ("a b", "cannot be")],
    "network": [
        ("", "neither"),
        ("example.com", "neither"),
        ("203.0.113.7; deny all", "neither"),
        ("fe80::1%eth0", "neither"),
        ("0.0.0.0/0", "everybody"),
        ("::/0", "everybody"),
        ("203.0.113.7/24", "bits beyond the prefix are set: write 203.0.113.0/24"),
        ("203.0.113.0/255.255.255.0", "another form: write 203.0.113.0/24"),
        ("2001:0DB8:1::/48", "another form: write 2001:db8:1::/48"),
    ],
    "relative-path": [("", "empty"), ("/etc", "absolute"), ("a/../../b", r"leaves"), ("a\nb", "characters")],
    "absolute-path": [("etc", "not absolute"), ("/a/../b", "contains"), ("/a b", "characters")],
    "command": [("", "empty"), ("a 'b", "never closed"), ("a && b", "a shell"), ("a\nb", "line breaks")],
    "module-attribute": [("src.main", "does not name"), ("src/main:app", "does not name")],
    "python-request": [("python3", "no Python"), ("2.7", "no Python"), (">=3.9;<3.12", "no Python"), ("", "no Python")],
    "requirement": [("gotrue", "version limit"), ("-r other.txt", "version limit"), ("x @ https://y", "version limit")],
    "debian-package": [("FFmpeg", "package"), ("a b", "package"), ("-y", "package")],
    "https-url": [
        ("http://a.example", "does not begin"),
        ("https://u:p@a.example", "credentials"),
        ("https://", "host"),
    ],
    "origins": [("*", "any website"), ("https://a.example/", "without a slash"), ("a.example", "does not begin")],
    "supabase-url": [("http://project.supabase.co", "unencrypted"), ("project.supabase.co", "does not begin")],
    "supabase-public-key": [
        (jwt("service_role"), "every visitor"),
        ("sb_secret_0123456789", "every visitor"),
        ("short", "as Supabase shows"),
    ],
    "supabase-service-key": [(jwt("anon"), "public"), ("sb_publishable_01234567", "public")],
    "postgresql-url": [
        ("postgres://u:p@h/d", "does not begin"),
        ("postgresql://u:p@h", "missing"),
        ("postgresql://u:p@[h/d", "percent-encoded"),
        ("postgresql://u:p@aws-0-eu.pooler.supabase.com:6543/postgres", "6543"),
        ("postgresql://u:[YOUR-PASSWORD]@db.example.com/postgres", "placeholder"),
        ("postgresql://u:pa@ss@db.example.com/postgres", "percent-encoded"),
        ("postgresql://u:100%@db.example.com/postgres", "percent-encoded"),
        ("postgresql://u:%zz@db.example.com/postgres", "percent-encoded"),
    ],
    "varied-secret": [("x" * 40, "10 different"), ("abcdefghijklm", "32")],
    "hex-key": [("0" * 63, "64"), ("g" * 64, "0-9 and a-f"), ("0" * 64, "the same")],
    "ssh-public-key": [("x", "key type")],
    "allowed-signer": [
        ("ssh-ed25519 AAAA", "who signs"),
        ("* ssh-ed25519 AAAA", "who signs"),
        ("you@example.com", "empty"),
        ('you@example.com namespaces="file" ssh-ed25519 AAAA', "key type"),
    ],
    "time-of-week": [
        ("10:00", "begin with a day"),
        ("Saturday 10:00", "begin with a day"),
        ("Sat", "begin with a day"),
        ("Sat 9:00", "one digit"),
    ],
    "s3-endpoint": [
        ("s3.eu-central-003.backblazeb2.com", "does not begin"),
        ("http://s3.eu-central-003.backblazeb2.com", "public host"),
        ("http://8.8.8.8:9000", "public host"),
        ("http://s3.internal:9000", "public host"),
        ("https://f003.backblazeb2.com", "S3 interface of Backblaze"),
        ("https://s3.eu-central-003.backblazeb2.com/my-bucket", "without a bucket"),
        ("https://id:key@s3.example.com", "credentials"),
    ],
    "s3-region": [("", "characters"), ("EU", "characters"), ("eu central", "characters")],
    "bucket-name": [
        ("abc", "6 to 63"),
        ("a" * 64, "6 to 63"),
        ("giggles_backup", "characters"),
        ("giggles/backup", "backup:prefix"),
        ("-giggles", "inner"),
    ],
    "object-prefix": [
        ("production", "end with a slash"),
        ("/production/", "begins with"),
        ("a//b/", "four folders"),
        ("../", "four folders"),
    ],
    "schema-name": [('"Own"', "plain name"), ("", "plain name"), ("1a", "plain name")],
    "s3-key-id": [
        ("0a1b2c3d4e5f", "master key"),
        ("K003abcdefghijklmnopqrstuvwxyz0", "keyID belongs here"),
        ("a b c d e f g", "Backblaze shows"),
    ],
    "s3-key": [("0031a2b3c4d5e6f0000000001", "it is a keyID"), ("short", "Backblaze shows")],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in RIGHT.items() for text in texts])
def test_what_is_right_is_taken(name: str, text: str) -> None:
    assert FORMATS[name].fault(text) is None


@pytest.mark.parametrize(("name", "text", "words"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_what_is_wrong_is_refused_with_its_reason(name: str, text: str, words: str) -> None:
    fault = FORMATS[name].fault(text)
    assert fault is not None
    assert words in fault


def test_every_format_has_a_case_here() -> None:
    assert set(WRONG) == set(FORMATS)


LOOKALIKES = st.text() | st.sampled_from(
    ["https://", "postgresql://", "ssh://[", "a.b.c", "..", "@", "eyJ.eyJ.x", "ssh-rsa ", "sb_secret_"]
).flatmap(lambda start: st.text().map(lambda rest: start + rest))


@given(LOOKALIKES)
def test_no_text_makes_a_format_raise(text: str) -> None:
    for kind in FORMATS.values():
        assert kind.fault(text) is None or len(kind.fault(text) or "") > 8


@given(st.text(alphabet="0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=12, max_size=80))
def test_no_reason_quotes_the_text(text: str) -> None:
    for kind in FORMATS.values():
        for candidate in (text, f"https://{text}@x/y", f"postgresql://u:{text}@", f"ssh-rsa {text}", f"eyJ.{text}.x"):
            assert text not in (kind.fault(candidate) or "")
