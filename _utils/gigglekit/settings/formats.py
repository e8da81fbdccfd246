"""The values that a plain JSON Schema cannot judge well: each format says what is allowed, and why a text is not it.

A reason never quotes the text, since the text may be a secret that was put in the wrong place.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from gigglekit.settings.keys import ACCEPTED_TYPES, MINIMUM_RSA_BITS, InvalidPublicKeyError, parse_public_key

Reason = str
"""What is wrong with a value, as the end of a sentence that begins with its key."""

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_ZONES = Path("/usr/share/zoneinfo")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BACKBLAZE = re.compile(r"https://s3\.([a-z0-9-]+)\.backblazeb2\.com/?")

# Accounts and groups that Debian and Ubuntu create themselves (base-passwd, systemd, sshd, cron), and the app's own.
_TAKEN_ACCOUNTS = """
    root giggles daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody nogroup adm
    tty disk kmem dialout fax voice cdrom floppy tape sudo audio dip src shadow utmp video sasl plugdev staff users
    input sgx kvm render crontab ssh sshd messagebus syslog postfix postgres systemd-network systemd-resolve
    systemd-timesync systemd-journal systemd-coredump systemd-oom _apt _ssh _chrony netdev uuidd tcpdump tss polkitd dhcpcd
    landscape pollinate lxd ssl-cert
"""


@dataclass(frozen=True)
class Format:
    """One named kind of text.

    Attributes:
        allowed: what may be written, for messages and docs.
        fault: returns why a text is not of this kind, or None if it is.
    """

    allowed: str
    fault: Callable[[str], Reason | None]


def host_name_fault(text: str) -> Reason | None:
    """Return why `text` is not a public host name in lower case (RFC 1123 section 2.1, RFC 1035 section 2.3.4)."""
    if not text:
        return "it is empty"
    if "://" in text:
        return "it begins with a scheme such as https://"
    if _is_address(text):
        return "it is an IP address, for which there is no certificate"
    for character, what in (
        ("/", "a path"),
        (":", "a port"),
        ("@", "an @"),
        ("*", "a wildcard"),
        ("_", "an underscore"),
    ):
        if character in text:
            return f"it contains {what}"
    if text.endswith("."):
        return "it ends with a dot"
    if not text.isascii():
        return "it contains letters beyond ASCII: write the xn-- form of such a name"
    if text != text.lower():
        return "it contains capital letters"
    if len(text) > 253:
        return "it is longer than 253 characters"
    labels = text.split(".")
    if len(labels) < 2:
        return "it has no dot, so it is no full name"
    for label in labels:
        if not _LABEL.fullmatch(label):
            return "a part between its dots is empty, too long, or more than letters, digits and inner hyphens"
    if len(labels[-1]) < 2 or not labels[-1][0].isalpha():
        return "its last part is no top-level domain"
    return None


def mail_host_fault(text: str) -> Reason | None:
    """Return why `text` names neither a mail server elsewhere, by the name in its certificate, nor this machine's own."""
    return None if text == "localhost" else host_name_fault(text)


def email_fault(text: str) -> Reason | None:
    """Return why `text` is not a plain e-mail address."""
    local, at, domain = text.rpartition("@")
    if not at:
        return "it has no @"
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", local) or ".." in local or local[0] == "." or local[-1] == ".":
        return "the part before the @ is not a plain address"
    fault = host_name_fault(domain.lower())
    return f"in the part after the @, {fault}" if fault else None


def account_fault(text: str) -> Reason | None:
    """Return why `text` cannot be the name of a new account (useradd's rule)."""
    if text in ("root", "giggles"):
        return "root may never log in, and giggles is the account of the app"
    if text == "giggles-build":
        return "releases of the app are built by this account"
    if text in _TAKEN_ACCOUNTS.split():
        return "the operating system uses this name itself"
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", text):
        return "it is not a Linux account name"
    return None


def ssh_key_fault(text: str) -> Reason | None:
    """Return why `text` is not a public ssh key that a droplet accepts."""
    try:
        parse_public_key(text)
    except InvalidPublicKeyError as error:
        return str(error)
    return None


def allowed_signer_fault(text: str) -> Reason | None:
    """Return why `text` is not a line that says whose signature counts (ssh-keygen(1), ALLOWED SIGNERS), without options."""
    principal, _, key = text.partition(" ")
    if not re.fullmatch(r"[A-Za-z0-9._%+@-]+", principal) or principal in ACCEPTED_TYPES:
        return "it does not begin with who signs, such as you@example.com"
    return ssh_key_fault(key)


def time_of_day_fault(text: str) -> Reason | None:
    """Return why `text` is not a time such as 04:30."""
    if re.fullmatch(r"[0-9]:[0-5][0-9]", text):
        return "its hour has one digit"
    return None if re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", text) else "it is not a time of day"


def duration_fault(text: str) -> Reason | None:
    """Return why `text` is not a span such as 10m."""
    return None if re.fullmatch(r"[1-9][0-9]{0,4}[smhdw]", text) else "it is not a number with a unit"


def time_zone_fault(text: str) -> Reason | None:
    """Return why `text` is not a time zone; where the machine has zone files, the zone has to be among them."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}", text):
        return "it is not the name of a time zone"
    if (_ZONES / "Etc" / "UTC").exists() and not _is_zone(text):
        return "there is no such time zone"
    return None


def _is_zone(name: str) -> bool:
    # Beside the zones lie lists, and Debian's `localtime`, which leads back to the very link that a zone is set by.
    try:
        with (_ZONES / name).open("rb") as file:
            return name != "localtime" and file.read(4) == b"TZif"
    except OSError:
        return False


def git_url_fault(text: str) -> Reason | None:
    """Return why `text` is not the address of a Git repository, free of credentials."""
    if text.startswith("-") or re.search(r"\s", text):
        return "it begins with a hyphen or contains a space"
    if "://" not in text:
        if re.match(r"[\w.-]+@[\w.-]+:", text):
            return "it is in scp form: write ssh://git@host/path instead of git@host:path"
        return "it has no scheme such as https://"
    parts = _split(text)
    if parts is None:
        return "it is not a valid address"
    if parts.scheme not in ("https", "ssh", "git", "file"):
        return "its scheme is not one of https, ssh, git and file"
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        return "it contains credentials, which would end up in logs and in the clone's configuration: use a deploy key"
    if parts.scheme == "file":
        return None if parts.path.startswith("/") and not parts.netloc else "a file address is file:// and an absolute path"
    if not parts.hostname or not parts.path.strip("/"):
        return "its host or its path is missing"
    return None


def git_ref_fault(text: str) -> Reason | None:
    """Return why `text` is neither a full commit nor a possible branch or tag (git-check-ref-format)."""
    if _COMMIT.fullmatch(text):
        return None
    if re.fullmatch(r"[0-9a-fA-F]{40}", text):
        return "a commit is written in lower case"
    if re.fullmatch(r"(?=[a-f]*[0-9])[0-9a-f]{7,39}", text):
        return "it looks like a shortened commit: give all 40 digits (git rev-parse)"
    broken = (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}", text)
        or ".." in text
        or "//" in text
        or "/." in text
        or text.endswith(("/", ".", ".lock"))
        or ".lock/" in text
    )
    return "it cannot be the name of a commit, tag or branch" if broken else None


def branch_name_fault(text: str) -> Reason | None:
    """Return why `text` is not a possible name of a branch (git-check-ref-format)."""
    return "it is a commit, which never moves" if is_commit(text) else git_ref_fault(text)


def network_fault(text: str) -> Reason | None:
    """Return why `text` is neither an address nor a network (RFC 4632, RFC 4291)."""
    try:
        # A zone (fe80::1%eth0) is no part of what nginx compares.
        network = ipaddress.ip_network("" if "%" in text else text, strict=False)
    except ValueError:
        return "it is neither an IP address nor a network"
    if network.prefixlen == 0:
        return "it is everybody"
    # As nginx and the address itself are written: host bits would be ignored without a word.
    if "/" not in text or text == str(network):
        return None
    other = ipaddress.ip_interface(text).ip == network.network_address
    return f"{'it is written in another form' if other else 'bits beyond the prefix are set'}: write {network}"


def relative_path_fault(text: str) -> Reason | None:
    """Return why `text` is not a path that stays below where it starts."""
    if not text:
        return "it is empty; the folder itself is written as a dot"
    if text.startswith("/"):
        return "it is absolute"
    if ".." in text.split("/"):
        return "it leaves its folder by .."
    return None if re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_. /+-]*", text) else "it has characters that do not belong in a path"


def absolute_path_fault(text: str) -> Reason | None:
    """Return why `text` is not a plain absolute path."""
    if not text.startswith("/"):
        return "it is not absolute"
    if ".." in text.split("/"):
        return "it contains .."
    return None if re.fullmatch(r"/[A-Za-z0-9_./+-]+", text) else "it has characters that do not belong in a path"


def command_fault(text: str) -> Reason | None:
    """Return why `text` cannot be split into a program and its arguments."""
    if not text.isprintable():
        return "it contains line breaks or control characters"
    try:
        words = shlex.split(text)
    except ValueError:
        return "it contains a quote that is never closed"
    if not words:
        return "it is empty: write null for none"
    if any(word in ("&&", "||", "|", ";", ">", "<", "&") for word in words):
        return "it contains a word that only a shell would understand: put such steps into a script of the app"
    return None


def module_attribute_fault(text: str) -> Reason | None:
    """Return why `text` is not `package.module:attribute`."""
    name = r"[A-Za-z_][A-Za-z0-9_]*"
    return None if re.fullmatch(rf"{name}(\.{name})*:{name}", text) else "it does not name a module and an object in it"


def requirement_fault(text: str) -> Reason | None:
    """Return why `text` is not a name with version limits, as in a pip constraints file."""
    limit = r"(==|!=|<=|>=|~=|<|>)\s*[A-Za-z0-9.*+!_-]+"
    name = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
    return None if re.fullmatch(rf"{name}\s*{limit}(\s*,\s*{limit})*", text) else "it is not a package with a version limit"


def python_request_fault(text: str) -> Reason | None:
    """Return why `text` names no Python that `gigglekit.release.interpreter` could look for."""
    clause = r"(>=|<=|==|<|>)?\s*3\.\d{1,2}"
    if text == "system" or re.fullmatch(rf"{clause}(\s*,\s*{clause})*", text):
        return None
    return "it names no Python"


def debian_package_fault(text: str) -> Reason | None:
    """Return why `text` is not a package name (Debian policy section 5.6.1)."""
    return None if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", text) else "it is not the name of a package"


def https_url_fault(text: str) -> Reason | None:
    """Return why `text` is not an https address without credentials."""
    return _web_url_fault(text, ("https",))


def origins_fault(text: str) -> Reason | None:
    """Return why `text` is not a comma-separated list of web origins (RFC 6454)."""
    for origin in text.split(","):
        if origin.strip() == "*":
            return "with * any website could act in the name of a visitor"
        fault = _web_url_fault(origin.strip(), ("https", "http"))
        if fault:
            return f"in one of its origins, {fault}"
        if not re.fullmatch(r"https?://[^/?#]+", origin.strip()):
            return "an origin ends after the host, without a slash or path"
    return None


def supabase_url_fault(text: str) -> Reason | None:
    """Return why `text` is not the address of a Supabase project; unencrypted only inside a private network."""
    fault = _web_url_fault(text, ("https", "http"))
    if fault:
        return fault
    parts = urlsplit(text)
    if parts.scheme == "http" and not _is_private(parts.hostname or ""):
        return "it is http:// to a public host: keys and sessions would travel unencrypted"
    return None


def supabase_public_key_fault(text: str) -> Reason | None:
    """Return why `text` is not a Supabase key that may be public."""
    if text.startswith("sb_secret_") or _supabase_role(text) == "service_role":
        return "it is a service role key, which would open the whole database to every visitor"
    return _token_fault(text)


def supabase_service_key_fault(text: str) -> Reason | None:
    """Return why `text` is not a Supabase service role key."""
    if text.startswith("sb_publishable_") or _supabase_role(text) == "anon":
        return "it is the public (anon) key, with which the nightly job cannot read its users"
    return _token_fault(text)


def postgresql_url_fault(text: str) -> Reason | None:
    """Return why `text` is not the address of a PostgreSQL database that a droplet should use."""
    if not text.startswith("postgresql://"):
        return "it does not begin with postgresql://"
    # Before it is taken apart, since newer Pythons take the brackets for those of an IPv6 address.
    if "[YOUR-PASSWORD]" in text:
        return "it still has Supabase's placeholder for the password"
    parts = _split(text)
    # libpq ends the password at the first @, and would take the rest of it for the name of the host, which is told.
    if parts is None or parts.netloc.count("@") > 1 or re.search("%(?![0-9A-Fa-f]{2})", text):
        return "it is not a valid address: special characters in the password have to be percent-encoded"
    if re.search(r"\s", text):
        return "it contains a space"
    if not parts.hostname or not parts.username or not parts.path.strip("/"):
        return "its user, host or database is missing (postgresql://user:password@host:5432/database)"
    if parts.hostname.endswith(".pooler.supabase.com") and parts.port == 6543:
        return "port 6543 is Supabase's transaction pooler, which breaks prepared statements and dumps: use 5432"
    return None


def varied_secret_fault(text: str) -> Reason | None:
    """Return why `text` is too weak for SECRET_KEY (the app's own rule)."""
    if len(text) < 32:
        return "it is shorter than 32 characters"
    return "it has fewer than 10 different characters" if len(set(text)) < 10 else None


def hex_key_fault(text: str) -> Reason | None:
    """Return why `text` is not a key of 32 bytes in hexadecimal."""
    if len(text) != 64:
        return "it does not have 64 characters"
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return "it has characters other than 0-9 and a-f"
    return "all its bytes are the same" if len(set(bytes.fromhex(text))) == 1 else None


def time_of_week_fault(text: str) -> Reason | None:
    """Return why `text` is not a time on a day of the week such as Sat 10:00."""
    day, space, time = text.partition(" ")
    if not space or day not in WEEKDAYS:
        return f"it does not begin with a day ({', '.join(WEEKDAYS)}) and a space"
    return time_of_day_fault(time)


def s3_endpoint_fault(text: str) -> Reason | None:
    """Return why `text` is not the address of an S3 server that credentials may be sent to."""
    fault = _web_url_fault(text, ("https", "http"))
    if fault:
        return fault
    if not re.fullmatch(r"https?://[^/?#]+/?", text):
        return "an endpoint ends after the host, without a bucket or path"
    parts = urlsplit(text)
    host = parts.hostname or ""
    if parts.scheme == "http" and host != "localhost" and not (_is_address(host) and _is_private(host)):
        return "it is http:// to a public host: what is sent could be seen and changed"
    if host.endswith(".backblazeb2.com") and not _BACKBLAZE.fullmatch(text):
        return "it is not the S3 interface of Backblaze, whose address is https://s3.REGION.backblazeb2.com"
    return None


def backblaze_region(endpoint: object) -> str | None:
    """Return the region in an endpoint of Backblaze, None for any other."""
    found = _BACKBLAZE.fullmatch(endpoint) if isinstance(endpoint, str) else None
    return found[1] if found else None


def s3_region_fault(text: str) -> Reason | None:
    """Return why `text` is not the name of a region."""
    return None if re.fullmatch(r"[a-z0-9-]{1,63}", text) else "it has characters other than a-z, 0-9 and hyphens"


def bucket_name_fault(text: str) -> Reason | None:
    """Return why `text` is not the name of a bucket of Backblaze, or of another S3 server."""
    if "/" in text:
        return "it contains a slash: a folder in the bucket belongs to backup:prefix"
    if not 6 <= len(text) <= 63:
        return "it does not have 6 to 63 characters"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9]", text):
        return "it has characters other than letters, digits and inner hyphens and dots"
    return None


def object_prefix_fault(text: str) -> Reason | None:
    """Return why `text` cannot be the beginning of names in a bucket."""
    if text and not text.endswith("/"):
        return "it does not end with a slash"
    if text.startswith("/"):
        return "it begins with a slash"
    if not re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9._-]{0,62}/){0,4}", text):
        return "it has more than four folders, or characters other than letters, digits, dots, hyphens and underscores"
    return None


def schema_name_fault(text: str) -> Reason | None:
    """Return why `text` is not a name that PostgreSQL takes without quotes."""
    return None if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,62}", text) else "it is no plain name of a schema"


def s3_key_id_fault(text: str) -> Reason | None:
    """Return why `text` is not the id of an application key."""
    if re.fullmatch(r"[0-9a-f]{12}", text):
        return "it is the id of the account's master key, which the S3 interface refuses: make an application key for this bucket alone"
    if text.startswith("K0") and len(text) > 28:
        return "it is an application key: its keyID belongs here"
    return None if re.fullmatch(r"[A-Za-z0-9_-]{8,128}", text) else "it is not an id as Backblaze shows it"


def s3_key_fault(text: str) -> Reason | None:
    """Return why `text` is not an application key."""
    if re.fullmatch(r"00[0-9a-f]{23}", text):
        return "it is a keyID: the application key beside it belongs here, which Backblaze shows once"
    return None if re.fullmatch(r"[A-Za-z0-9/+=_-]{16,256}", text) else "it is not a key as Backblaze shows it"


def is_commit(text: object) -> bool:
    """Return whether `text` is a full commit, which can never mean something else tomorrow."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def _split(text: str) -> SplitResult | None:
    """Split an address, or return None if it has no valid form; reading the port is what finds a wrong one."""
    try:
        parts = urlsplit(text)
        _ = parts.port, parts.hostname
    except ValueError:
        return None
    return parts


def _web_url_fault(text: str, schemes: tuple[str, ...]) -> Reason | None:
    if re.search(r"[\s\"'<>\\^`{|}]", text):
        return "it contains a character that has to be percent-encoded"
    parts = _split(text)
    if parts is None:
        return "it is not a valid address"
    if parts.scheme not in schemes:
        return f"it does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if not parts.hostname:
        return "its host is missing"
    if parts.username is not None or parts.password is not None:
        return "it contains credentials"
    return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _is_private(host: str) -> bool:
    if _is_address(host):
        return ipaddress.ip_address(host).is_private
    return "." not in host or host.endswith((".test", ".internal", ".localhost", ".home.arpa"))


def _token_fault(text: str) -> Reason | None:
    return None if re.fullmatch(r"[A-Za-z0-9._=/+-]{8,4096}", text) else "it is not a key as Supabase shows it"


def _supabase_role(token: str) -> object:
    """Return the role that a Supabase JWT carries (RFC 7519), None for anything else; nobody checks it here."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return claims.get("role") if isinstance(claims, dict) else None


FORMATS: Mapping[str, Format] = {
    "host-name": Format("a host name in lower case such as giggles.example.com, without scheme, port or path", host_name_fault),
    "mail-host": Format("the name of a mail server such as smtp.example.com, or localhost for one on this droplet", mail_host_fault),
    "email-address": Format("an e-mail address such as ops@example.com", email_fault),
    "account-name": Format(
        "a Linux account name of at most 31 characters (a-z, 0-9, _ and -) that is not root, giggles or an account of the system",
        account_fault,
    ),
    "ssh-public-key": Format(
        f"a line as in ~/.ssh/id_ed25519.pub: type ({', '.join(ACCEPTED_TYPES)}; RSA from {MINIMUM_RSA_BITS} bits), key and comment",
        ssh_key_fault,
    ),
    "allowed-signer": Format("who signs and their public ssh key, such as: you@example.com ssh-ed25519 AAAA…", allowed_signer_fault),
    "time-of-day": Format('a time in quotes from "00:00" to "23:59"', time_of_day_fault),
    "duration": Format("a number and a unit (s, m, h, d or w), such as 10m", duration_fault),
    "time-zone": Format("a name from the time zone database such as Etc/UTC or Europe/Berlin", time_zone_fault),
    "git-url": Format("an address that begins with https://, ssh://, git:// or file:// and holds no password or token", git_url_fault),
    "git-ref": Format("a full commit of 40 hexadecimal digits, or the name of a tag or branch", git_ref_fault),
    "branch-name": Format("the name of a branch such as production", branch_name_fault),
    "network": Format("an IP address or a network such as 203.0.113.7 or 2001:db8:1::/48", network_fault),
    "relative-path": Format("a path without a leading / and without ..", relative_path_fault),
    "absolute-path": Format("a path that begins with / and has no ..", absolute_path_fault),
    "command": Format("a program and its arguments, on one line; there is no shell", command_fault),
    "module-attribute": Format("a module and an object in it, such as src.main:app", module_attribute_fault),
    "python-request": Format("system, a version such as 3.11, or a range such as >=3.9,<3.12", python_request_fault),
    "requirement": Format("a package with a version limit such as setuptools<81", requirement_fault),
    "debian-package": Format("the name of a package such as ffmpeg", debian_package_fault),
    "https-url": Format("an https:// address without credentials", https_url_fault),
    "origins": Format("web origins such as https://giggles.example.com, separated by commas", origins_fault),
    "supabase-url": Format("the https:// address of the project (http:// only inside a private network)", supabase_url_fault),
    "supabase-public-key": Format("the anon (publishable) key as Supabase shows it", supabase_public_key_fault),
    "supabase-service-key": Format("the service role (secret) key as Supabase shows it", supabase_service_key_fault),
    "postgresql-url": Format("postgresql://user:password@host:5432/database", postgresql_url_fault),
    "varied-secret": Format("at least 32 characters, at least 10 of them different", varied_secret_fault),
    "time-of-week": Format('a day and a time in quotes, such as "Sat 10:00"', time_of_week_fault),
    "s3-endpoint": Format(
        "the https:// address of an S3 server (http:// only to a private address), such as https://s3.eu-central-003.backblazeb2.com",
        s3_endpoint_fault,
    ),
    "s3-region": Format("the region as it stands in the endpoint, such as eu-central-003", s3_region_fault),
    "bucket-name": Format("the name of a bucket: 6 to 63 letters, digits, hyphens and dots", bucket_name_fault),
    "object-prefix": Format("empty, or folders that end with a slash, such as production/", object_prefix_fault),
    "schema-name": Format("the name of a schema such as public", schema_name_fault),
    "s3-key-id": Format("the keyID of an application key as Backblaze shows it", s3_key_id_fault),
    "s3-key": Format("the applicationKey as Backblaze shows it once", s3_key_fault),
    "hex-key": Format("exactly 64 hexadecimal digits (32 bytes; openssl rand -hex 32)", hex_key_fault),
}
"""Every format that `pillar/schema.yaml` may name."""
