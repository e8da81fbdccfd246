"""From when to when a certificate is valid, without a library: a status that is drawn every few minutes loads little."""

from __future__ import annotations

import binascii
import calendar
import re
import time
from pathlib import Path

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_TIME = rb"(\x17\x0d\d{12}Z|\x18\x0f\d{14}Z)"
_VALIDITY = re.compile(rb"\x30." + _TIME + _TIME, re.DOTALL)
_MOST_BYTES = 256 << 10


def read(path: Path) -> tuple[float, float] | None:
    """Return from when to when the first certificate of a PEM file is valid, in seconds since 1970; None if nobody can tell.

    Arguments:
        path: the file; links are followed, as nginx follows them.

    Source: RFC 5280, 4.1.2.5: Validity is a SEQUENCE of two times, UTCTime until 2049 and GeneralizedTime from 2050 on, both in
    seconds and UTC. What stands before it in a certificate holds no two times in a row.
    """
    try:
        with path.open("rb") as file:
            pem = _PEM.search(file.read(_MOST_BYTES))
        found = _VALIDITY.search(binascii.a2b_base64(pem[1])) if pem else None
        return (_moment(found[1]), _moment(found[2])) if found else None
    except (OSError, ValueError, OverflowError):
        return None


def _moment(encoded: bytes) -> float:
    text = encoded[2:-1].decode()
    if len(text) == 12:
        text = ("19" if text >= "50" else "20") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%S")))
