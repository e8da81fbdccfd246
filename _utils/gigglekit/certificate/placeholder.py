"""A self-signed certificate that lets nginx start before the real one exists. It names nobody and is trusted by nobody."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from gigglekit.certificate.errors import CertificateError
from gigglekit.files.replacing import replace

YEARS = 10
_RENEW_BEFORE = datetime.timedelta(days=90)
_COMMON_NAME = "placeholder until a certificate is issued"


def faults(folder: Path, now: datetime.datetime) -> list[str]:
    """Return what keeps the pair in `folder` from being served, one phrase each; empty if it is fine.

    Args:
        folder: holds `fullchain.pem` and `privkey.pem`.
        now: current time, with a time zone.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate_file, key_file = folder / "fullchain.pem", folder / "privkey.pem"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), None)
    except FileNotFoundError as error:
        return [f"{Path(error.filename).name} does not exist"]
    except (OSError, ValueError, TypeError) as error:
        return [f"the pair cannot be read ({type(error).__name__})"]
    found = []
    if certificate.public_key() != key.public_key():
        found.append("key and certificate do not belong together")
    if certificate.not_valid_after_utc - now < _RENEW_BEFORE:
        found.append("it expires soon")
    if certificate.issuer != certificate.subject:
        found.append("it is no placeholder")
    return found


def wrong_modes(folder: Path) -> dict[Path, int]:
    """Return the paths below `folder`, itself included, whose mode or owner is wrong, with the mode each must have."""
    wanted = {folder: 0o700, folder / "privkey.pem": 0o600, folder / "fullchain.pem": 0o644}
    wrong = {}
    for path, mode in wanted.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_mode & 0o7777 != mode or (status.st_uid, status.st_gid) != (0, 0):
            wrong[path] = mode
    return wrong


def repair_modes(folder: Path) -> None:
    """Give folder, key and certificate to root, with the modes that `wrong_modes` wants.

    Raises:
        CertificateError: an owner or mode cannot be changed.
    """
    for path, mode in wrong_modes(folder).items():
        try:
            os.chown(path, 0, 0)
            path.chmod(mode)
        except OSError as error:
            raise CertificateError(
                f"Owner and mode of {path} could not be set: {error.strerror}. Its key must be readable to root alone. "
                f"Remove {folder} and apply the state again."
            ) from error


def create(folder: Path, now: datetime.datetime) -> None:
    """Write a new pair into `folder`, which is created if need be: ECDSA P-256, valid for `YEARS` years from `now`.

    Each file is replaced as a whole; the key is never readable to anybody but its owner.

    Raises:
        CertificateError: the files cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _COMMON_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoded_key = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(folder / "privkey.pem", encoded_key, 0o600)
        replace(folder / "fullchain.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise CertificateError(
            f"The placeholder certificate could not be written to {folder}: {error.strerror}. nginx cannot start "
            f"without one. Make the folder writable, or free space on its disk, and apply the state again."
        ) from error
