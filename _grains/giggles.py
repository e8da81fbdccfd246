"""
Result and age of the backup and of its drill, out of the records that each run leaves. Every salt-call loads this file, so it
imports nothing of gigglekit, reads the end of two files, and takes whatever lies in them.
"""

import calendar
import json
import os
import stat
import time

RECORDS = "/var/lib/giggles/records"
_MOST_BYTES = 96 << 10
_MOST_LINES = 200
_AHEAD_S = 300
"""A record from further in the future is of a clock that was wrong, and would look young for too long."""


def backup(records=RECORDS):
    """
    Return the grain ``giggles``: for ``backup`` and ``drill`` ``last_success`` (RFC 3339), ``age_s`` (seconds since then), ``ok``
    (whether the newest run went well), ``snapshot``, ``files`` and ``bytes`` of the last success. What is not known is None.

    CLI Example:

    .. code-block:: bash

        salt-call grains.get giggles
    """
    return {"giggles": {kind: _told(os.path.join(records, f"{kind}.jsonl")) for kind in ("backup", "drill")}}


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
            told["snapshot"] = record["snapshot"][:100]
            break
    return told


def _number(value):
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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


def _end(path):
    """Return the end of a file, from the beginning of a line on; nothing if there is none, or something else lies there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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
