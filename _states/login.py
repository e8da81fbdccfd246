"""Who may log in, and the promise that changing it never locks the administrator out.

What these states do is in `gigglekit.login`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gigglekit.login import guard, hostkeys, listening, pam
from gigglekit.login.accounts import Accounts
from gigglekit.login.errors import LoginError
from gigglekit.login.keys import require_usable
from gigglekit.login.second_factor import SecondFactor

__virtualname__ = "login"


def __virtual__() -> str:
    return __virtualname__


def guarded(name: str, admin: str, keys: list[str], second_factor: bool = False, admin_password: bool = False) -> dict[str, Any]:
    """Before anything that decides about logins is changed: refuse without a usable key, and note how everything is.

    From here until ``login.proven`` a timer outside this run puts everything back should the run die.

    name
        Only an identifier.
    admin
        The administrator's account, which need not exist yet.
    keys
        The public keys it is going to have.
    second_factor
        Whether ssh is to ask for a code. An administrator of another name than the one who has one needs one as well, first.
    admin_password
        Whether sudo is to ask for the administrator's password, who needs one first: nobody else can become root.

    .. code-block:: yaml

        login-guarded:
          login.guarded:
            - admin: operator
            - keys: [ssh-ed25519 AAAA… you@laptop]
            - order: first
            - failhard: True
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}}
    try:
        usable = require_usable(keys, admin)
        factor = SecondFactor(admin)
        if second_factor and (before := factor.confirmed_for()) not in (None, "", admin) and not factor.is_there():
            raise LoginError(
                f"The administrator is to be {admin}, who has no second factor, while {before} has one and ssh is to ask for it: {admin} "
                "could not log in. Nothing was changed. Make one with salt-call giggles.second_factor, confirm it as it says, and apply "
                "again. To do without, set giggles:hardening:ssh_second_factor to false."
            )
        accounts = Accounts()
        if admin_password and not accounts.has_password(admin):
            raise LoginError(
                f"giggles:admin:sudo_password is true, and {admin} has no password that sudo could ask for: nobody could become root any "
                f"more. Nothing was changed. On the droplet, `sudo passwd {admin}` gives {admin} one; then apply again. Where there is no "
                "such account yet, leave sudo_password at false until there is."
            )
        if not __opts__["test"]:
            guard.begin(accounts.home(admin), accounts.homes("sudo"))
    except LoginError as error:
        ret.update(result=False, comment=str(error))
        return ret
    ret["comment"] = f"{admin} has {len(usable)} usable key{'s' if len(usable) > 1 else ''}."
    return ret


def proven(name: str, admin: str, port: int = 22, with_sudo: bool = True, second_factor: bool = False) -> dict[str, Any]:
    """After the changes: log in for real and become root, or put everything back and fail.

    Without a change since ``login.guarded`` nothing is tried.

    name
        Only an identifier.
    admin
        The administrator's account.
    port
        TCP port of sshd.
    with_sudo
        Whether ``sudo -n true`` has to work as well.
    second_factor
        Whether sshd asks for a code; one of the administrator's own is given then.

    .. code-block:: yaml

        login-proven:
          login.proven:
            - admin: operator
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}}
    if __opts__["test"]:
        ret["comment"] = "A login is tried after changes; under test there are none."
        return ret
    try:
        changed = guard.end(admin, port=int(port), with_sudo=with_sudo, second_factor=second_factor)
    except LoginError as error:
        ret.update(result=False, comment=str(error))
        return ret
    ret["comment"] = (
        "Nothing that decides about logins was changed."
        if changed is None
        else f"{admin} logged in with a one-time key{' and a code' if second_factor else ''}"
        f"{' and became root' if with_sudo else ''} after the changes."
    )
    return ret


def second_factor(name: str, admin: str, wanted: bool) -> dict[str, Any]:
    """Tell whether ssh asks for a second factor, and what is missing if it was chosen and does not. Of the droplet nothing is changed;
    it is only noted that there is one, so that one that is gone fails, and is not taken for one that never was.

    name
        Only an identifier.
    admin
        The administrator's account.
    wanted
        Whether it was chosen.

    .. code-block:: yaml

        second-factor-chosen:
          login.second_factor:
            - admin: operator
            - wanted: True
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "ssh asks for no second factor."}
    factor = SecondFactor(admin)
    confirmed = factor.confirmed_for()
    try:
        if not wanted:
            # Who does without, and removes it, misses none later on.
            if confirmed is not None and not factor.is_there() and not __opts__["test"]:
                factor.forget()
            return ret
        if factor.is_there() and not factor.problem() and not __opts__["test"]:
            factor.remember()
    except OSError as error:
        return {
            **ret,
            "result": False,
            "comment": f"{factor.note}, where it is noted that there is a second factor, could not be written ({error.strerror}). How ssh "
            "asks was not changed. Look at df and dmesg, then apply again.",
        }
    if not factor.is_there() and confirmed is not None:
        return {
            **ret,
            "result": False,
            "comment": (
                f"A second factor was confirmed on this droplet, and {admin} has none: {factor.path} is gone. How ssh asks was not "
                "changed, since that would let in whoever has the key alone; if it asks for a code, no code is right. Stay logged in if "
                "you are, or else use the droplet's console (docs/TROUBLESHOOTING.md, The phone is lost). Make another one with salt-call "
                "giggles.second_factor, confirm it as it says, and apply again. To do without, set "
                "giggles:hardening:ssh_second_factor to false and apply."
            ),
        }
    if not factor.is_there():
        return {
            **ret,
            "comment": (
                f"ssh does NOT ask for a second factor yet: {admin} has none that was confirmed, and would be locked out. Make one with "
                "salt-call giggles.second_factor, confirm it as it says, and apply again."
            ),
        }
    if problem := factor.problem():
        return {
            **ret,
            "result": False,
            "comment": (
                f"The second factor of {admin} lets nobody in: {problem}. How ssh asks was not changed. Stay logged in, make "
                "another one with salt-call giggles.second_factor new=True, confirm it, and apply again."
            ),
        }
    return {**ret, "comment": f"ssh asks {admin} for a code as well as the key."}


def asks(name: str, lines: list[str]) -> dict[str, Any]:
    """Have a service of PAM ask exactly this of those who log in; what else its file says stays.

    name
        The service's file, which its package brings.
    lines
        All that is to stand there about ``auth``.

    .. code-block:: yaml

        ssh-asks-exactly:
          login.asks:
            - name: /etc/pam.d/sshd
            - lines: ['@include common-auth']
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "It asks exactly what it should."}
    path = Path(name)
    try:
        there = pam.auth(path.read_text(encoding="utf-8")) if path.exists() or not __opts__["test"] else []
        if there == lines:
            return ret
        ret["changes"] = {"asks": {"old": there, "new": lines}}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": "What it asks would be changed."}
        pam.bring(path, lines)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        return {
            **ret,
            "result": False,
            "changes": {},
            "comment": f"{name} cannot be read or written ({why}), so what it asks was not changed. It comes with openssh-server: "
            "'apt-get install --reinstall -o Dpkg::Options::=--force-confmiss openssh-server' puts it back. Then apply again.",
        }
    return {**ret, "comment": "What it asks was changed."}


def socket_listens(name: str) -> dict[str, Any]:
    """Have ssh.socket open before sshd runs: systemd does not open it for an sshd that runs already.

    name
        Only an identifier.

    .. code-block:: yaml

        ssh-socket-open:
          login.socket_listens: []
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": f"{listening.SOCKET} is open."}
    if listening.listens():
        return ret
    changes = {listening.SOCKET: {"old": "not open", "new": f"open, with {listening.SERVICE} behind it"}}
    if __opts__["test"]:
        return {**ret, "result": None, "changes": changes, "comment": f"{listening.SOCKET} would be opened."}
    try:
        listening.listen()
    except LoginError as error:
        return {**ret, "result": False, "comment": str(error)}
    return {**ret, "changes": changes, "comment": f"{listening.SOCKET} was opened."}


def accounts_exact(name: str, admin: str, groups: dict[str, list[str]], admin_password: bool = False) -> dict[str, Any]:
    """Have one superuser, no password nobody asked for, exact members of powerful groups, and no stray keys.

    name
        Only an identifier.
    admin
        The one account with authorized keys.
    groups
        Exact members of groups; groups that do not exist are skipped.
    admin_password
        Whether the administrator may have a password.

    .. code-block:: yaml

        nobody-else-has-power:
          login.accounts_exact:
            - admin: operator
            - groups: {sudo: [operator], adm: [operator]}
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}}
    ret["comment"] = "The accounts are exactly as they should be."
    accounts = Accounts()
    differences = accounts.differences(admin, groups, admin_password=admin_password)
    if not differences:
        return ret
    ret["changes"] = differences
    if __opts__["test"]:
        ret.update(result=None, comment=f"To be changed: {', '.join(differences)}.")
        return ret
    accounts.bring(admin, groups, admin_password=admin_password)
    ret["comment"] = f"Changed: {', '.join(differences)}."
    left = accounts.differences(admin, groups, admin_password=admin_password)
    if left:
        ret["result"] = False
        ret["comment"] = (
            f"The accounts are still not as they should be ({left}), although their files were written. Something else "
            "writes /etc/passwd or /etc/group at the same time: look for it and apply again."
        )
    return ret


def host_keys(name: str, keys: dict[str, int]) -> dict[str, Any]:
    """Have exactly these host keys in /etc/ssh, each at least that large; others are removed.

    name
        Only an identifier.
    keys
        Size in bits by kind.

    .. code-block:: yaml

        ssh-host-keys-strong:
          login.host_keys:
            - keys: {ed25519: 256, rsa: 4096}
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}}
    ret["comment"] = "The host keys are as they should be."
    if not hostkeys.FOLDER.is_dir():
        differences = {f"ssh_host_{kind}_key": "to be made: there is none" for kind in keys}
    else:
        differences = hostkeys.differences(keys)
    if not differences:
        return ret
    ret["changes"] = differences
    if __opts__["test"]:
        ret.update(result=None, comment="Host keys are to be changed.")
        return ret
    try:
        hostkeys.bring(keys)
    except (LoginError, OSError) as error:
        ret.update(result=False, comment=str(error))
        return ret
    ret["comment"] = "Host keys were changed; clients that knew a replaced one will ask."
    return ret


def moduli(name: str, minimum: int = 3072) -> dict[str, Any]:
    """Have no prime of less than ``minimum`` bits in /etc/ssh/moduli, for the group exchange.

    name
        Only an identifier.
    minimum
        Bits.

    .. code-block:: yaml

        ssh-moduli-strong:
          login.moduli:
            - minimum: 3072
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "No prime is too small."}
    weak = hostkeys.weak_moduli(minimum)
    if not weak:
        return ret
    ret["changes"] = {"removed": f"{weak} primes of less than {minimum} bits"}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{weak} primes are too small.")
        return ret
    hostkeys.drop_weak_moduli(minimum)
    ret["comment"] = f"{weak} primes were too small."
    return ret
