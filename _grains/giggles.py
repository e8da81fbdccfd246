"""
What the droplet knows of itself without asking anybody: how the nightly job, backup, drill and converge went last, how long the
certificate is valid, how full the disks are, how clips are kept and which release is live. Every salt-call loads this file, so it
imports nothing of gigglekit, starts no program, reads the end of four files, and takes whatever lies in them.
"""

import binascii
import calendar
import json
import os
import re
import stat
import time

RECORDS = "/var/lib/giggles/records"
# One line each, as gigglekit.health.validity has it, where the source of this is named.
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_VALIDITY = re.compile(rb"\x30.(?:\x17\x0d\d{12}Z|\x18\x0f\d{14}Z)(\x17\x0d\d{12}Z|\x18\x0f\d{14}Z)", re.DOTALL)
_NIGHT = ("verdict", "result", "users_found", "users_completed", "users_failed", "clips_found", "peak_mb", "seconds")
_CONVERGE = ("trigger", "commit", "changed", "failed")
_MOST_BYTES = 96 << 10
_MOST_LINES = 200
_MOST_NUMBER = 10**15
_AHEAD_S = 300
"""A record from further in the future is of a clock that was wrong, and would look young for too long."""


def giggles(records=RECORDS, root="/"):
    """
    Return the grain ``giggles``. What is not known is None, whatever the reason. Ages are in seconds.

    ``backup``, ``drill``
        ``last_success`` (RFC 3339), ``age_s`` (since then), ``ok`` (whether the newest run went well), ``snapshot``, ``files`` and
        ``bytes`` of the last success.
    ``nightly``
        ``time``, ``age_s``, ``verdict``, ``result``, users, clips, ``peak_mb`` and ``seconds`` of the newest run.
    ``converge``
        ``time``, ``age_s``, ``ok``, ``trigger``, ``commit``, ``changed``, ``failed`` and ``drift`` (how many) of the newest run.
    ``certificate``
        ``not_after`` (RFC 3339), ``days`` (left, rounded down), ``placeholder``.
    ``disk``
        for ``root`` and ``uploads`` ``percent``, ``inode_percent`` and ``free_mb``; ``uploads`` is None unless it is a volume.
    ``vault``
        ``mode`` and ``mounted``.
    ``release``
        ``commit``: what is live.

    CLI Example:

    .. code-block:: bash

        salt-call grains.get giggles
        salt-call grains.get giggles:nightly:verdict
    """
    told = {kind: _told(os.path.join(records, f"{kind}.jsonl")) for kind in ("backup", "drill")}
    told["nightly"] = _newest(os.path.join(records, "nightly.jsonl"), _NIGHT, lambda record: isinstance(record.get("verdict"), str))
    converge = _newest(
        os.path.join(records, "converge.jsonl"), ("ok", *_CONVERGE, "drift"), lambda record: isinstance(record.get("ok"), bool)
    )
    told["converge"] = converge
    told["certificate"] = _certificate(os.path.join(root, "etc/nginx/tls/current"))
    uploads = os.path.join(root, "var/lib/giggles/uploads")
    told["disk"] = {"root": _disk(root), "uploads": _disk(uploads) if os.path.ismount(uploads) else None}
    told["vault"] = _vault(os.path.join(root, "etc/giggles/vault.json"), uploads)
    told["release"] = {"commit": _link(os.path.join(root, "opt/giggles/current"))}
    return {"giggles": told}


def _newest(path, keys, is_one):
    """Return what the newest record says under these names, as long as it is plain; of a list, how long it is."""
    told = dict.fromkeys(("time", "age_s", *keys))
    now = time.time()
    for record in _newest_first(path):
        age = _age(record.get("time"), now)
        if age is None or not is_one(record):
            continue
        told.update(time=record["time"], age_s=age)
        for key in keys:
            value = record.get(key)
            if isinstance(value, list):
                value = len(value)
            if isinstance(value, str):
                told[key] = _plain(value)
            elif isinstance(value, bool | int | float) and abs(value) < _MOST_NUMBER:
                told[key] = value
        break
    return told


def _certificate(folder):
    told = dict.fromkeys(("not_after", "days", "placeholder"))
    pem = _PEM.search(_end(os.path.join(folder, "fullchain.pem"), os.O_RDONLY))
    try:
        found = pem and _VALIDITY.search(binascii.a2b_base64(pem[1]))
        if not found:
            return told
        text = found[1][2:-1].decode()
        if len(text) == 12:
            text = ("19" if text >= "50" else "20") + text
        end = calendar.timegm(time.strptime(text, "%Y%m%d%H%M%S"))
    except (ValueError, OverflowError):
        return told
    told["not_after"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    told["days"] = int((end - time.time()) // 86400)
    told["placeholder"] = _link(folder) == "placeholder"
    return told


def _disk(path):
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    used = found.f_blocks - found.f_bfree
    usable = used + found.f_bavail
    return {
        "percent": round(100 * used / usable, 1) if usable else None,
        "inode_percent": round(100 * (found.f_files - found.f_ffree) / found.f_files, 1) if found.f_files else None,
        "free_mb": found.f_bavail * found.f_frsize >> 20,
    }


def _vault(path, uploads):
    try:
        mode = json.loads(_end(path)).get("mode")
    except (ValueError, AttributeError, RecursionError):
        mode = None
    return {"mode": mode if mode in ("encrypted", "plain") else None, "mounted": os.path.ismount(uploads)}


def _link(path):
    try:
        return os.path.basename(os.readlink(path).rstrip("/")) or None
    except (OSError, ValueError):
        return None


def _told(path):
    told = dict.fromkeys(("last_success", "age_s", "ok", "snapshot", "files", "bytes"))
    now = time.time()
    for record in _newest_first(path):
        age = _age(record.get("time"), now)
        if age is None or not isinstance(record.get("ok"), bool):
            continue
        if told["ok"] is None:
            told["ok"] = record["ok"]
        if not record["ok"]:
            continue
        if told["last_success"] is None:
            told.update(last_success=record["time"], age_s=age)
            told.update(files=_number(record.get("files")), bytes=_number(record.get("bytes", record.get("size"))))
        # A run that found nothing new made no snapshot.
        if isinstance(record.get("snapshot"), str) and record["snapshot"]:
            told["snapshot"] = _plain(record["snapshot"])
            break
    return told


def _number(value):
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST_NUMBER else None


def _plain(text):
    # Half of a surrogate pair, which JSON can hold, would break Salt when it packs its grains.
    return text[:100] if text.isprintable() else None


def _age(text, now):
    if not isinstance(text, str):
        return None
    try:
        age = now - calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, OverflowError):
        return None
    return None if age < -_AHEAD_S else max(0, int(age))


def _newest_first(path):
    for line in reversed(_end(path).splitlines()[-_MOST_LINES:]):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _end(path, flags=os.O_RDONLY | os.O_NOFOLLOW):
    """Return the end of a file, from the beginning of a line on; nothing if there is none, or something else lies there."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        start = max(0, status.st_size - _MOST_BYTES)
        # The first line may be cut; without its beginning it is no JSON.
        return os.pread(descriptor, _MOST_BYTES, start)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
