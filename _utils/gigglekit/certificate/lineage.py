"""What certbot has on disk under one certificate name: the certificate, its key, and how it will be renewed.

Files as documented in certbot's user guide, "Where are my certificates?": `live/<name>/*.pem` are links into
`archive/<name>/`, `renewal/<name>.conf` holds what the next renewal uses. Nothing here starts certbot.
"""

from __future__ import annotations

import configparser
import datetime
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.certificate.errors import Unreadable

_KINDS = ("cert", "chain", "fullchain", "privkey")


@dataclass(frozen=True)
class Lineage:
    """One certificate on disk.

    Attributes:
        name: certbot's name for it.
        domains: names the certificate covers.
        key_type: `ecdsa`, `rsa` or another word for the certificate's own key.
        serial: serial number in hexadecimal.
        issuer: who signed it, as one line (RFC 4514).
        not_before, not_after: validity, in UTC.
        key_matches: whether privkey.pem belongs to it.
        renewal: `renewalparams` of the renewal file; empty if that file is missing.
        webroots: domains and folders of `[[webroot_map]]`.
        sound: whether certbot itself would accept the files: it wants links into its archive and a renewal file.
    """

    name: str
    domains: frozenset[str]
    key_type: str
    serial: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    key_matches: bool
    renewal: dict[str, str] = field(default_factory=dict)
    webroots: dict[str, str] = field(default_factory=dict)
    sound: bool = True

    def summary(self) -> dict[str, object]:
        """Return what a state's changes say of it: no secrets, JSON types only."""
        return {
            "domains": sorted(self.domains),
            "issuer": self.issuer,
            "serial": self.serial,
            "not_after": self.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "server": self.renewal.get("server"),
        }


def live_folder(config_dir: Path, name: str) -> Path:
    """Return the folder in which servers find the newest files of the certificate `name`."""
    return config_dir / "live" / name


def read(config_dir: Path, name: str) -> Lineage | None:
    """Read the certificate `name`.

    Args:
        config_dir: certbot's configuration folder, usually /etc/letsencrypt.
        name: certbot's name of the certificate.

    Returns:
        What lies there, or None if there is no such certificate.

    Raises:
        Unreadable: files exist, but cannot be parsed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    folder = live_folder(config_dir, name)
    try:
        certificate = x509.load_pem_x509_certificate((folder / "fullchain.pem").read_bytes())
        key = load_pem_private_key((folder / "privkey.pem").read_bytes(), None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Unreadable(
            f"The certificate files in {folder} cannot be read ({type(error).__name__}). They are damaged, or were "
            f"replaced by hand. A new certificate will be requested; nginx keeps serving what it has loaded."
        ) from error
    public_key = certificate.public_key()
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        key_type = "ecdsa"
    elif isinstance(public_key, rsa.RSAPublicKey):
        key_type = "rsa"
    else:
        key_type = type(public_key).__name__
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        domains = frozenset(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        domains = frozenset()
    renewal, webroots = _read_renewal(config_dir / "renewal" / f"{name}.conf")
    return Lineage(
        name=name,
        domains=domains,
        key_type=key_type,
        serial=f"{certificate.serial_number:x}",
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key_matches=public_key == key.public_key(),
        renewal=renewal,
        webroots=webroots,
        sound=bool(renewal) and is_sound(config_dir, name),
    )


def is_sound(config_dir: Path, name: str) -> bool:
    """Return whether the four files of `name` are links to existing files in certbot's archive of that name."""
    archive = config_dir / "archive" / name
    for kind in _KINDS:
        link = live_folder(config_dir, name) / f"{kind}.pem"
        if not link.is_symlink() or not link.exists() or link.resolve().parent != archive.resolve():
            return False
    return True


def remnants(config_dir: Path, name: str) -> list[Path]:
    """Return what exists of the certificate `name`, whole or not: its two folders and its renewal file."""
    places = [live_folder(config_dir, name), config_dir / "archive" / name, config_dir / "renewal" / f"{name}.conf"]
    return [place for place in places if place.exists() or place.is_symlink()]


def names(config_dir: Path) -> set[str]:
    """Return the names of all certificates that certbot would renew."""
    return {path.stem for path in (config_dir / "renewal").glob("*.conf")}


def _read_renewal(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    # certbot writes ConfigObj: the keys above the first section belong to none, and [[webroot_map]] is nested.
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}, {}
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    try:
        parser.read_string("[top]\n" + text.replace("[[webroot_map]]", "[webroot_map]"))
    except configparser.Error:
        return {}, {}
    parameters = dict(parser["renewalparams"]) if parser.has_section("renewalparams") else {}
    webroots = dict(parser["webroot_map"]) if parser.has_section("webroot_map") else {}
    return parameters, webroots
