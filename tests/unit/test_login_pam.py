"""What PAM asks is exactly what was chosen, and the rest of a service stays as its package has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gigglekit.login import pam

# In the shape of openssh-server's on Debian and Ubuntu.
SERVICE = """# PAM configuration for the Secure Shell service

# Standard Un*x authentication.
@include common-auth

account    required     pam_nologin.so
@include common-account
session [success=ok ignore=ignore module_unknown=ignore default=bad] pam_selinux.so close
@include common-session
session    optional     pam_motd.so  motd=/run/motd.dynamic
@include common-password
"""
CODE = "auth required pam_google_authenticator.so secret=/etc/giggles/second-factor/${USER} user=root"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    path = tmp_path / "sshd"
    path.write_text(SERVICE)
    path.chmod(0o640)
    return path


def test_a_code_takes_the_place_of_the_password_and_back_again(service: Path) -> None:
    assert pam.auth(SERVICE) == ["@include common-auth"]
    pam.bring(service, [CODE])
    assert service.read_text() == SERVICE.replace("@include common-auth", CODE)
    assert service.stat().st_mode & 0o777 == 0o640
    pam.bring(service, ["@include common-auth"])
    assert service.read_text() == SERVICE


@pytest.mark.parametrize(
    "added",
    [
        "auth sufficient pam_permit.so",
        "-auth\tsufficient pam_permit.so",
        "AUTH sufficient pam_permit.so",
        "auth \\\n   sufficient pam_permit.so",
        "  auth [success=done default=ignore] pam_permit.so",
        "@include common-auth",
        "@include  somebody-elses",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_line_that_lets_somebody_in_otherwise_is_removed(service: Path, added: str, first: bool) -> None:
    pam.bring(service, [CODE])
    right = service.read_text()
    service.write_text(f"{added}\n{right}" if first else f"{right}{added}\n")
    assert pam.auth(service.read_text()) != [CODE]
    pam.bring(service, [CODE])
    assert service.read_text() == right


def test_a_service_that_asks_nothing_is_given_something(service: Path) -> None:
    service.write_text("account required pam_unix.so\n# auth sufficient pam_permit.so\n")
    pam.bring(service, [CODE])
    assert service.read_text() == f"{CODE}\naccount required pam_unix.so\n# auth sufficient pam_permit.so\n"
