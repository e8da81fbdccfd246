"""A second factor for ssh: a code that a phone shows, and a few codes on paper for when it is lost.

The secret is made here, shown once, and put in force only when somebody has shown one right code, so that nobody is locked out by a
phone that was never set up. What is in force lies in the file that Debian's PAM module pam_google_authenticator reads and keeps its
own notes in: which codes were used, and when somebody tried. The proof that nobody is locked out (`gigglekit.login.attempt`) reads
them too, since a code that was used is refused, whoever used it.

Sources: RFC 4226 and RFC 6238 (the code); the module's own FILEFORMAT and pam_google_authenticator(8); the Key URI Format that
authenticator apps read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from ..files.replacing import replace
from .errors import LoginError

FOLDER = Path("/etc/giggles/second-factor")
NOTE = Path("/var/lib/giggles/second-factor.json")
"""Says that a second factor was confirmed, and not what it is. It lies elsewhere, so that it outlives what it tells of: one that is
gone is not one that never was."""
STEP = 30
"""Seconds that a code is shown for."""
DIGITS = 6
_AROUND = 1
"""How many steps before and after the present one count as well: the module's WINDOW_SIZE of 3."""
_TRIES, _SPAN = 3, 30
"""How many tries the module lets somebody have in how many seconds."""
_SECRET_BYTES = 20
_SCRATCH_CODES = 5
_LATE = 10
"""Seconds before the end of a step from which on the code before it could be too old when it arrives."""
_LONGEST = 1024
"""Bytes. The module reads no larger file."""


@dataclass(frozen=True)
class Shown:
    """A new second factor, as its owner has to see it once.

    Arguments:
        uri: what an authenticator app or a password manager takes (otpauth://…).
        secret: the same secret, to be typed.
        scratch: codes that are good for one login each.
    """

    uri: str
    secret: str
    scratch: tuple[str, ...]

    def __repr__(self) -> str:
        return "Shown(…)"

    def page(self) -> str:
        """Return all of it as text for a person."""
        lines = (
            "This is shown once. Put it into an authenticator app or a password manager, which takes the address",
            f"    {self.uri}",
            "or the secret, typed by hand:",
            f"    {self.secret}",
            "Keep these codes on paper. Each is good for one login without the phone:",
            *(f"    {code}" for code in self.scratch),
            "Nothing is asked for yet. Confirm now with the code that the app shows: salt-call giggles.second_factor confirm=True",
        )
        return "\n".join(lines)


def code(secret: bytes, step: int) -> str:
    """Return the code of one step (RFC 6238 with HMAC-SHA-1 and six digits, as every authenticator app has it).

    Arguments:
        secret: the shared secret.
        step: seconds since 1970, divided by `STEP`.
    """
    digest = hmac.new(secret, struct.pack(">Q", step), hashlib.sha1).digest()
    (number,) = struct.unpack_from(">I", digest, digest[-1] & 0xF)
    return str((number & 0x7FFFFFFF) % 10**DIGITS).zfill(DIGITS)


@dataclass(frozen=True)
class SecondFactor:
    """The second factor of one account.

    Arguments:
        user: the account.
        folder: where second factors lie; root's alone.
        note: where it is noted that one was confirmed.
    """

    user: str
    folder: Path = FOLDER
    note: Path = NOTE

    @property
    def path(self) -> Path:
        """The file of what is in force."""
        return self.folder / self.user

    @property
    def _unconfirmed(self) -> Path:
        return self.folder / f"{self.user}.unconfirmed"

    def is_there(self) -> bool:
        """Tell whether there is one that was confirmed, or whatever else lies in its place. The states are told so by the same rule
        (salt/hardening/second_factor.jinja)."""
        return os.path.lexists(self.path)

    def begin(self, server: str, *, new: bool = False) -> Shown:
        """Make a second factor and return it. It is not in force before `confirm`, and nothing shows it again.

        Arguments:
            server: what the app on the phone is to call this server.
            new: make another one although one is in force, which stays so until the new one is confirmed.

        Raises:
            LoginError: one is in force, and `new` was not asked for.
            OSError: it cannot be written.
        """
        if self.path.exists() and not new:
            raise LoginError(
                f"{self.user} has a second factor already, and it cannot be shown again. Nothing was changed. If the phone works, all is "
                "well. If it was lost, or somebody else has seen what it was set up with, make another one, which replaces it once it is "
                "confirmed: salt-call giggles.second_factor new=True"
            )
        secret = base64.b32encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        # The module takes a code of fewer than eight digits for none of these.
        scratch = tuple(str(10**7 + secrets.randbelow(9 * 10**7)) for _ in range(_SCRATCH_CODES))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(self._unconfirmed, _content(secret, scratch, "").encode())
        label = quote(f"{server}:{self.user}", safe=":")
        uri = f"otpauth://totp/{label}?{urlencode({'secret': secret, 'issuer': server})}"
        return Shown(uri, " ".join(re.findall("....", secret)), scratch)

    def confirm(self, entered: str, *, now: float | None = None) -> None:
        """Put what `begin` made in force, if a code shows that the phone has it.

        Arguments:
            entered: the code.
            now: seconds since 1970.

        Raises:
            LoginError: there is nothing to confirm, or the code is not right; nothing was changed.
            OSError: it cannot be written.
        """
        step = int((time.time() if now is None else now) // STEP)
        try:
            content = self._unconfirmed.read_text(encoding="ascii")
        except FileNotFoundError:
            raise LoginError(
                f"There is no second factor of {self.user} that waits to be confirmed. Nothing was changed. Make one with salt-call "
                "giggles.second_factor, put it into the phone, and confirm it then."
            ) from None
        secret, scratch = _secret(content), re.findall(r"(?m)^\d{8}$", content)
        typed = "".join(entered.split())
        # Not compared in constant time: whoever asks is root, and may read the secret.
        used = [one for one in range(step - _AROUND, step + _AROUND + 1) if secret is not None and code(secret, one) == typed]
        if not used:
            raise LoginError(
                "That is not the code that the phone shows now. Nothing was changed, and logins are as before. Look whether the phone has "
                "this server's newest entry, and whether its clock and the droplet's (timedatectl) are right; then type the next code."
            )
        # The mode that the module gives it when it writes down what was used.
        replace(self.path, _content(content.split("\n", 1)[0], scratch, f" {used[0]}").encode(), 0o400)
        self.remember()
        self._unconfirmed.unlink()

    def confirmed_for(self) -> str | None:
        """Return whose second factor was confirmed last on this droplet; "" if the note is damaged, None if there was none."""
        try:
            user = json.loads(self.note.read_bytes())["user"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
        return user if isinstance(user, str) else ""

    def remember(self) -> None:
        """Note that the one in force was confirmed; of the same one the note is always the same.

        Raises:
            LoginError: what is in force is damaged.
            OSError: it cannot be written.
        """
        secret = _secret(self._read()) or b""
        # 160 random bits cannot be guessed, so this tells nothing of them.
        which = hashlib.sha256(b"giggles second factor\0" + secret).hexdigest()[:16]
        noted = (json.dumps({"user": self.user, "which": which}, sort_keys=True) + "\n").encode()
        with contextlib.suppress(OSError):
            if self.note.read_bytes() == noted:
                return
        self.note.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        replace(self.note, noted)

    def forget(self) -> None:
        """Note that none is missed.

        Raises:
            OSError: the note cannot be removed.
        """
        self.note.unlink(missing_ok=True)

    def problem(self) -> str:
        """Say why what is in force could let nobody in: a damaged file, or one that the module refuses; "" if it is all right."""
        try:
            content = self._read()
        except LoginError as error:
            return str(error)
        if _option(content, "TOTP_AUTH") is None:
            return f"{self.path} does not say that it is for codes that change with the time"
        return ""

    def code_for_proof(self) -> str:
        """Return a code that will be taken now, one that its owner is least likely to need. Waits for up to a minute if it must.

        Raises:
            LoginError: what is in force is damaged.
        """
        for _ in range(3):
            content = self._read()
            step, wait = _free(content, time.time())
            if wait == 0:
                break
            time.sleep(wait)
        return code(_secret(content) or b"", step)

    def _read(self) -> str:
        try:
            content = self.path.read_bytes()
        except IsADirectoryError:
            raise LoginError(f"{self.path} is a folder, and has to be moved away first") from None
        except OSError as error:
            raise LoginError(f"{self.path} cannot be read ({error.strerror})") from None
        text = content.decode("ascii", "replace")
        if len(content) > _LONGEST or _secret(text) is None:
            raise LoginError(f"{self.path} does not hold a second factor")
        return text


def _content(secret: str, scratch: list[str] | tuple[str, ...], used: str) -> str:
    options = (f"RATE_LIMIT {_TRIES} {_SPAN}", f"WINDOW_SIZE {2 * _AROUND + 1}", f"DISALLOW_REUSE{used}", "TOTP_AUTH")
    return "".join(f"{line}\n" for line in (secret, *(f'" {option}' for option in options), *scratch))


def _secret(content: str) -> bytes | None:
    first = content.split("\n", 1)[0]
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b32decode(first + "=" * (-len(first) % 8)) or None
    return None


def _option(content: str, name: str) -> list[int] | None:
    found = re.search(rf'(?m)^" {name}((?: \d+)*) *$', content)
    return None if found is None else [int(number) for number in found[1].split()]


def _free(content: str, now: float) -> tuple[int, float]:
    """Return a step whose code the module will take, and for how many seconds to wait before asking again (0: not at all).

    Arguments:
        content: the module's file. It lists the steps of used codes, and when somebody tried.
        now: seconds since 1970.
    """
    present, gone = divmod(now, STEP)
    step = int(present)
    tries, span, *tried = _option(content, "RATE_LIMIT") or [_TRIES, _SPAN]
    recent = sorted(one for one in tried if one >= int(now) - span)
    if len(recent) >= tries:
        return step, recent[len(recent) - tries] + span + 1 - now
    used = _option(content, "DISALLOW_REUSE") or []
    # The one before is what its owner has just stopped seeing; near the end of a step it would arrive too late.
    wanted = [step - 1, step, step + 1] if STEP - gone > _LATE else [step, step + 1]
    free = [one for one in wanted if one not in used]
    return (free[0], 0.0) if free else (step, STEP - gone)
