"""
The TLS certificate of this machine: a placeholder, the real one from an ACME authority, and the link that nginx follows.

certbot is started only when a new certificate is needed; whether it is, is read from its files.
"""

import datetime
import time
from pathlib import Path

from gigglekit.certificate import environment, issue, lineage, placeholder, plan, privacy, refusal
from gigglekit.certificate.errors import CertificateError, Refused, Unreadable
from gigglekit.files import links

__virtualname__ = "certbot"


def __virtual__():
    return __virtualname__


def _now():
    return datetime.datetime.now(datetime.timezone.utc)


def installed(name, lock, version, python="/usr/bin/python3", uv="/opt/giggles-tools/uv/bin/uv"):
    """
    Ensure that certbot lies in a virtual environment of its own, exactly as locked, and that ``current`` leads to it.

    name
        Absolute path of the folder that holds the builds.

    lock
        Requirements with hashes, on this machine.

    version
        Version of the interpreter, such as ``3.11``.

    python, uv
        The interpreter, and the program that builds.

    .. code-block:: yaml

        certbot-installed:
          certbot.installed:
            - name: /opt/certbot
            - lock: /opt/certbot/certbot.txt
            - version: '3.11'
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "certbot is installed as locked."}
    wanted = environment.Environment(Path(name), Path(lock), Path(python), version, Path(uv))
    if not wanted.lock.exists():
        if __opts__["test"]:
            return {**ret, "result": None, "changes": {"built": name}, "comment": "certbot would be installed."}
        return {**ret, "result": False, "comment": f"certbot cannot be installed, since its lock {lock} does not exist."}
    if not wanted.is_complete():
        ret["changes"]["built"] = str(wanted.folder)
    if not wanted.is_current():
        ret["changes"]["current"] = str(wanted.folder)
    if wanted.older():
        ret["changes"]["removed"] = [str(path) for path in wanted.older()]
    if not ret["changes"]:
        return ret
    if __opts__["test"]:
        return {**ret, "result": None, "comment": "certbot would be installed as locked."}
    try:
        environment.establish(wanted)
    except CertificateError as error:
        return {"name": name, "result": False, "changes": {}, "comment": str(error)}
    return {**ret, "comment": "certbot has been installed as locked."}


def placeholder_present(name):
    """
    Ensure that a folder holds a usable self-signed certificate, so that nginx starts before the real one exists.

    name
        Absolute path of the folder; ``fullchain.pem`` and ``privkey.pem`` lie in it.

    .. code-block:: yaml

        placeholder-certificate-present:
          certbot.placeholder_present:
            - name: /etc/nginx/tls/placeholder
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "The placeholder certificate is in place."}
    folder = Path(name)
    faults = placeholder.faults(folder, _now())
    modes = {} if faults else placeholder.wrong_modes(folder)
    if faults:
        ret["changes"] = {"created": name, "because": faults}
    elif modes:
        ret["changes"] = {"modes": {str(path): f"{mode:04o}" for path, mode in modes.items()}}
    if not ret["changes"]:
        return ret
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = "The placeholder certificate would be put right."
        return ret
    try:
        if faults:
            placeholder.create(folder, _now())
        placeholder.repair_modes(folder)
    except CertificateError as error:
        return {"name": name, "result": False, "changes": {}, "comment": str(error)}
    ret["comment"] = "The placeholder certificate has been put right."
    return ret


def linked(name, placeholder, certificate=None, config_dir="/etc/letsencrypt"):
    """
    Ensure that a link leads to the certificate that nginx can serve: the real one if it is usable, else the placeholder.

    name
        Absolute path of the link; nginx names files below it.

    placeholder
        Folder with the placeholder certificate.

    certificate
        certbot's name of the real certificate; none if no domain has been chosen yet.

    config_dir
        certbot's configuration folder.

    .. code-block:: yaml

        certificate-linked:
          certbot.linked:
            - name: /etc/nginx/tls/current
            - placeholder: /etc/nginx/tls/placeholder
            - certificate: giggles.example.com
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    target = placeholder
    if certificate and _usable(Path(config_dir), certificate):
        target = str(lineage.live_folder(Path(config_dir), certificate))
    link = Path(name)
    present = _occupant(link)
    ret["comment"] = f"{name} leads to {target}."
    if present == target:
        return ret
    ret["changes"] = {"old": present, "new": target}
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"{name} would lead to {target}."
        return ret
    try:
        if link.is_dir() and not link.is_symlink():
            __salt__["file.remove"](name)
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        links.point(link, target)
    except OSError as error:
        ret["result"] = False
        ret["changes"] = {}
        ret["comment"] = (
            f"{name} could not be made a link to {target}: {error.strerror}. nginx keeps serving what it has loaded. "
            f"Make the folder writable, or free space on its disk, and apply the state again."
        )
    return ret


def _occupant(path):
    if path.is_symlink():
        return str(path.readlink())
    if path.is_dir():
        return "a folder"
    return "a file" if path.exists() else None


def _usable(config_dir, certificate):
    try:
        found = lineage.read(config_dir, certificate)
    except Unreadable:
        return False
    return found is not None and found.key_matches


def certificate(
    name,
    domains,
    directory,
    webroot,
    email=None,
    ca_bundle=None,
    key_type="ecdsa",
    certbot="/opt/certbot/current/bin/certbot",
    config_dir="/etc/letsencrypt",
    work_dir="/var/lib/letsencrypt",
    logs_dir="/var/log/letsencrypt",
):
    """
    Ensure that a certificate of an ACME authority lies on this machine, covers exactly the given names and will be renewed.

    It is requested when there is none, when its names, key type, authority or renewal settings differ, or when it should
    have been renewed by now. After a refusal the same request is not sent again for a while, which doubles from 15
    minutes to 12 hours; the state stays failed meanwhile. Other certificates of certbot on this machine are removed.

    name
        certbot's name of the certificate.

    domains
        Names to cover.

    directory
        URL of the authority's ACME directory.

    webroot
        Folder whose ``.well-known/acme-challenge`` a web server on port 80 of all these names already serves.

    email
        Contact for the account.

    ca_bundle
        File with the root certificate of a private authority.

    key_type
        ``ecdsa`` or ``rsa``.

    certbot, config_dir, work_dir, logs_dir
        The program, and the folders it keeps its things in.

    .. code-block:: yaml

        certificate-issued:
          certbot.certificate:
            - name: giggles.example.com
            - domains: [giggles.example.com, www.giggles.example.com]
            - directory: https://acme-v02.api.letsencrypt.org/directory
            - webroot: /var/lib/giggles-acme
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    wanted = plan.Wanted(
        name=name,
        domains=tuple(dict.fromkeys(domains)),
        directory=directory,
        webroot=Path(webroot),
        email=email,
        ca_bundle=Path(ca_bundle) if ca_bundle else None,
        key_type=key_type,
    )
    tool = issue.Certbot(Path(certbot), Path(config_dir), Path(work_dir), Path(logs_dir))
    note = tool.work_dir / "giggles-refusal.json"
    old, reasons = _inspect(tool, wanted)
    leftovers = sorted(lineage.names(tool.config_dir) - {name})
    if not reasons and not leftovers:
        ret["comment"] = f"The certificate is valid until {old.not_after:%Y-%m-%d %H:%M} UTC and will be renewed."
        return ret

    last = refusal.read(note)
    if reasons and refusal.waiting(last, wanted.fingerprint(), time.time()):
        ret["result"] = False
        ret["comment"] = (
            f"A certificate is needed, since {'; '.join(reasons)}. The last request was refused and is not repeated "
            f"before {_clock(last.next_at)}, so that the authority does not lock this server out; remove {note} to try "
            f"at once. What was said: {last.cause}"
        )
        return ret
    if leftovers:
        ret["changes"]["removed"] = leftovers
    if reasons:
        ret["changes"]["requested"] = {"because": reasons, "domains": list(wanted.domains), "from": directory}
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = "A certificate would be requested." if reasons else "Unused certificates would be removed."
        return ret

    changes = {}
    try:
        if reasons:
            issue.request(tool, wanted)
            new, still = _inspect(tool, wanted)
            changes["certificate"] = {
                "because": reasons,
                "old": old.summary() if old else None,
                "new": new.summary() if new else None,
            }
            if still:
                raise Refused(
                    f"certbot reported success, but the certificate {name} is still not right: {'; '.join(still)}. "
                    f"See {logs_dir}/letsencrypt.log.",
                    time.time() + refusal.BETWEEN_DUPLICATES,
                )
            refusal.forget(note)
        # Only now, so that nothing is lost while there is nothing better.
        for leftover in leftovers:
            issue.delete(tool, leftover)
            changes.setdefault("removed", []).append(leftover)
    except Refused as error:
        following = refusal.following(last, wanted.fingerprint(), str(error), time.time(), error.retry_at)
        try:
            refusal.write(note, following)
            until = f" The next try will be made after {_clock(following.next_at)}."
        except OSError as unwritten:
            until = f" This could not be noted in {note} ({unwritten.strerror}), so the next converge asks again."
        return {"name": name, "result": False, "changes": changes, "comment": str(error) + until}
    except CertificateError as error:
        return {"name": name, "result": False, "changes": changes, "comment": str(error)}
    ret["changes"] = changes
    ret["comment"] = (
        f"A certificate for {', '.join(wanted.domains)} has been issued." if reasons else "Unused certificates have been removed."
    )
    return ret


def keys_private(name, config_dir="/etc/letsencrypt"):
    """
    Ensure that certbot's private keys, of certificates and of accounts, are root's alone.

    name
        Only an identifier.

    config_dir
        certbot's configuration folder; while it does not exist there is nothing to expose.

    .. code-block:: yaml

        certificate-keys-private:
          certbot.keys_private: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "Nobody but root can read a private key."}
    found = {str(path): {"old": was, "new": "0:0, nothing for others"} for path, was in privacy.exposed(Path(config_dir)).items()}
    if not found:
        return ret
    if __opts__["test"]:
        return {**ret, "result": None, "changes": found, "comment": "What is open to others would be closed."}
    try:
        for path, change in found.items():
            privacy.close(Path(path))
            ret["changes"][path] = change
    except CertificateError as error:
        return {**ret, "result": False, "comment": str(error)}
    return {
        **ret,
        "comment": "What was open to others is closed. If anybody but root could log in meanwhile, have a new key: "
        "certbot renew --force-renewal --new-key.",
    }


def _inspect(tool, wanted):
    try:
        found = lineage.read(tool.config_dir, wanted.name)
    except Unreadable as error:
        return None, [str(error)]
    return found, plan.reasons(found, wanted, _now())


def _clock(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
