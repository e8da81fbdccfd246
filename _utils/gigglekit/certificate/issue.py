"""Asking certbot for a certificate, and understanding why it said no."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gigglekit.certificate import lineage
from gigglekit.certificate.errors import CertificateError, Refused
from gigglekit.certificate.plan import Wanted

_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Certbot:
    """Where certbot lies and where it keeps its things.

    Attributes:
        program: the executable.
        config_dir: certificates, accounts, renewal files (usually /etc/letsencrypt).
        work_dir: scratch (usually /var/lib/letsencrypt).
        logs_dir: logs (usually /var/log/letsencrypt).
    """

    program: Path
    config_dir: Path
    work_dir: Path
    logs_dir: Path

    def folders(self) -> list[str]:
        """Return the options that name the folders."""
        return [
            f"--config-dir={self.config_dir}",
            f"--work-dir={self.work_dir}",
            f"--logs-dir={self.logs_dir}",
        ]


def request(certbot: Certbot, wanted: Wanted) -> None:
    """Have a certificate issued as `wanted`, whatever lies on disk under its name.

    On failure nothing on disk changes: certbot stores a certificate only once it has it, and damaged remnants, which
    certbot would stumble over, are put back.

    Raises:
        CertificateError: certbot could not be run.
        Refused: certbot ran, but there is no certificate.
    """
    arguments = [
        "certonly",
        "--non-interactive",
        "--agree-tos",
        *certbot.folders(),
        "--webroot",
        f"--webroot-path={wanted.webroot}",
        f"--cert-name={wanted.name}",
        f"--server={wanted.directory}",
        f"--key-type={wanted.key_type}",
        "--force-renewal",
        "--renew-with-new-domains",
        *([f"--email={wanted.email}", "--no-eff-email"] if wanted.email else ["--register-unsafely-without-email"]),
    ]
    for domain in wanted.domains:
        arguments += ["-d", domain]
    with _damage_set_aside(certbot.config_dir, wanted.name):
        process = _run(certbot, arguments, wanted.ca_bundle)
        if process.returncode == 0:
            return
        output = process.stdout + "\n" + process.stderr
        raise Refused(explain(output, wanted, certbot.logs_dir), retry_time(output))


def delete(certbot: Certbot, name: str) -> None:
    """Remove the certificate `name` with its key and renewal file.

    Raises:
        CertificateError: certbot could not be run or did not remove it.
    """
    process = _run(certbot, ["delete", "--non-interactive", *certbot.folders(), f"--cert-name={name}"], None)
    if process.returncode != 0:
        raise CertificateError(
            f"The certificate {name}, which this server does not use any more, could not be removed: "
            f"{_last_line(process.stderr)}. Remove {certbot.config_dir}/renewal/{name}.conf by hand."
        )


@contextlib.contextmanager
def _damage_set_aside(config_dir: Path, name: str) -> Iterator[None]:
    # A name of which certbot finds only a part is taken for another certificate: it would issue `name-0001`, or stop.
    remnants = lineage.remnants(config_dir, name)
    renewable = (config_dir / "renewal" / f"{name}.conf").exists() and lineage.is_sound(config_dir, name)
    if not remnants or renewable:
        yield
        return
    aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=config_dir))
    moved = [(place, aside / str(number)) for number, place in enumerate(remnants)]
    for place, refuge in moved:
        place.rename(refuge)
    try:
        yield
    except BaseException:
        for place, refuge in moved:
            if not place.exists():
                refuge.rename(place)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _run(certbot: Certbot, arguments: list[str], ca_bundle: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
    }
    for variable in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        if variable in os.environ:
            environment[variable] = os.environ[variable]
    if ca_bundle is not None:
        environment["REQUESTS_CA_BUNDLE"] = str(ca_bundle)
    try:
        return subprocess.run(
            [str(certbot.program), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise CertificateError(
            f"certbot is not installed at {certbot.program}, so no certificate can be requested. Apply the state "
            f"`web` as a whole; it installs certbot first."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Refused(
            f"certbot gave no answer within {_TIMEOUT_SECONDS} s and was stopped. The certificate authority is slow "
            f"or the network drops its packets; see {certbot.logs_dir}/letsencrypt.log, then apply the state again."
        ) from error
    except OSError as error:
        raise CertificateError(
            f"certbot at {certbot.program} cannot be run: {error.strerror}. Remove /opt/certbot and apply the state `web` again."
        ) from error


# What an authority can say (RFC 8555, section 6.7) or what certbot meets on the way, and what to do about it.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"rateLimited|too many (?:certificates|failed|new|registrations|currently)",
        "The authority limits how often it is asked. Wait until the time it names, and use its staging directory "
        "(giggles:web:acme:directory) while you experiment.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|TLS CA certificate bundle",
        "The authority's own TLS certificate is not trusted here: set giggles:web:acme:ca_bundle to its root "
        "certificate if it is a private one, and check the clock.",
    ),
    (
        r"ConnectionError|Max retries exceeded|NameResolutionError|ConnectTimeout|ReadTimeout|Network is unreachable",
        "The authority cannot be reached from here: check giggles:web:acme:directory, the name servers and the outgoing network.",
    ),
    (
        r"Type:\s+caa\b",
        "A CAA record forbids this authority to issue for the domain: add it to the record, or remove the record.",
    ),
    (
        r"Type:\s+dns\b|NXDOMAIN|DNS problem|no valid A records|No valid IP addresses|could not resolve",
        "Let the A record (and the AAAA record, if there is one) of every name point at this server; new records can "
        "take minutes to be seen.",
    ),
    (
        r"Type:\s+connection\b|Timeout during connect|Connection refused|Fetching http",
        "The authority must reach this server on port 80: check that every name's A and AAAA records point here and "
        "that no firewall in front of the droplet blocks port 80.",
    ),
    (
        r"Type:\s+unauthorized\b|Invalid response from http",
        "Another server answered in this one's place: let the A and AAAA records point here, and switch off proxies in between.",
    ),
    (
        r"rejectedIdentifier|not a valid domain|Domain name contains",
        "The authority does not issue for this name: check the spelling of giggles:domain and giggles:aliases.",
    ),
    (
        r"invalidEmail|invalidContact|unsupportedContact|contact email",
        "Correct giggles:web:acme:email, or set it to null.",
    ),
    (
        r"accountDoesNotExist|Account \S+ not found|account .{0,40}(?:deactivated|revoked)",
        "The authority does not accept this server's account any more: move /etc/letsencrypt/accounts away and apply the "
        "state again, which registers a new one.",
    ),
    (
        r"No space left on device|Disk quota",
        "Free space on the disk of /etc/letsencrypt and /var/log/letsencrypt.",
    ),
    (
        r"Another instance of Certbot is already running",
        "A renewal is under way. Wait for it to end and apply the state again.",
    ),
)


def explain(output: str, wanted: Wanted, logs_dir: Path) -> str:
    """Return one paragraph on what certbot printed: what happened, what was said, what to do.

    Args:
        output: what certbot printed, both streams.
        wanted: what was asked for.
        logs_dir: where certbot's own log lies.
    """
    said = _said(output)
    remedy = next(
        (text for pattern, text in _REMEDIES if re.search(pattern, output, re.IGNORECASE)),
        f"See {logs_dir}/letsencrypt.log.",
    )
    return (
        f"No certificate for {', '.join(wanted.domains)} could be had from {wanted.directory}: {said}. {remedy} "
        f"Until then this server keeps serving with the certificate it has."
    )


def retry_time(output: str) -> float | None:
    """Return the time after `retry after …` in what an authority said (seconds since 1970), or None."""
    match = re.search(r"retry after (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)", output)
    if match is None:
        return None
    moment = datetime.datetime.fromisoformat(match.group(1).replace(" ", "T"))
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


# certbot said Domain before it knew of certificates for addresses, and says Identifier since.
_PROBLEM = re.compile(r"(?:Domain|Identifier):\s+(\S+)\s+Type:\s+(\S+)\s+Detail:\s+(.+?)(?=\n\s*\n|\n\s*(?:Domain|Identifier):|\Z)", re.S)


def _said(output: str) -> str:
    problems = _PROBLEM.findall(output)
    if problems:
        return "; ".join(f"{domain}: {kind}: {_flat(detail)}" for domain, kind, detail in problems)
    unexpected = re.search(r"An unexpected error occurred:\s*\n(.+?)(?=\n\s*Ask for help|\n\s*\n|\Z)", output, re.S)
    if unexpected:
        return _flat(unexpected.group(1))
    return _last_line(re.sub(r"(?m)^(?:Ask for help|See the logfile|Saving debug log).*$", "", output))


def _flat(text: str) -> str:
    flat = " ".join(text.split()).rstrip(".")
    return flat if len(flat) <= 500 else flat[:499] + "…"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return _flat(lines[-1]) if lines else "certbot said nothing"
