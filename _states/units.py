"""Units that run and start at boot, several at once. Much cheaper than one ``service.running`` for each."""

from pathlib import Path

from gigglekit.dpkg.ownership import OwnershipError
from gigglekit.systemd import dropins
from gigglekit.systemd import units as systemd_units


def __virtual__():
    return "units"


def running(name, units=None, needs=None, boot=True, reload=False, socket=None):
    """Have units unmasked, enabled and running. A change in a watched state restarts them, or has them reload.

    name
        The unit, or in words what the units are for.
    units
        The units, if they are several; a name without a suffix is a service.
    needs
        A path without which there is nothing to run yet.
    boot
        Whether they are to be enabled; not so a service that its socket starts.
    reload
        Whether a change in a watched state makes them read their configuration again instead of restarting them.
    socket
        What starts them when somebody needs them. While it is open they need not run, and read their configuration then.

    .. code-block:: yaml

        timers-run:
          units.running:
            - units: [apt-daily.timer, apt-daily-upgrade.timer]
    """
    # Salt calls mod_watch only where the state itself has changed nothing. What is merely enabled again still runs with
    # what it had read, and so do the units beside one that had to be started.
    return _runs(name, units or [name], needs, boot, reload, socket, watched=_watched_has_changed)


def enabled(name, units=None):
    """Have units unmasked and started at boot, without starting them now.

    name
        The unit, or in words what the units are for.
    units
        The units, if they are several.

    .. code-block:: yaml

        systemd-timesyncd.service:
          units.enabled: []
    """
    return _established(name, units or [name], running=False, boot=True)[0]


def unaltered(name, units=None, restart=True):
    """Have units say what their files say: drop-ins and replacements that no package brought are removed and named.

    name
        The unit, or in words what the units are for.
    units
        The units with their suffixes, if they are several.
    restart
        Whether those that run are restarted afterwards; a reload would keep what they were started with.

    .. code-block:: yaml

        ssh-unit-unaltered:
          units.unaltered:
            - units: [ssh.service]
    """
    names = units or [name]
    ret = {"name": name, "result": True, "changes": {}, "comment": f"Nothing alters {', '.join(names)}."}
    try:
        found = dropins.find(names)
        if not found:
            return ret
        if __opts__["test"]:
            return {**ret, "result": None, "changes": {"removed": found}, "comment": "What alters them would be removed."}
        for path in found:
            dropins.remove(path)
            ret["changes"].setdefault("removed", []).append(path)
        systemd_units.read_again()
        running = [unit.name for unit in systemd_units.inspect(names) if unit.runs] if restart else []
        if running:
            systemd_units.restart(running)
            ret["changes"]["restarted"] = running
    except OSError as error:
        return {
            **ret,
            "result": False,
            "comment": f"{error.filename}, which alters a unit, could not be removed: {error.strerror}. Look for an immutable flag "
            "(lsattr) or a read-only mount, then apply again.",
        }
    except (OwnershipError, systemd_units.UnitError) as error:
        return {**ret, "result": False, "comment": str(error)}
    return {**ret, "comment": "What altered them was removed."}


def absent(name, units=None):
    """Have units of ours stopped and gone: neither running, nor started at boot, nor there to be started.

    name
        The unit, or in words what the units were for.
    units
        The units with their suffixes, if they are several. Packages' units are left where they are.

    .. code-block:: yaml

        backup-units-absent:
          units.absent:
            - units: [giggles-backup.timer, giggles-backup.service]
    """
    names = units or [name]
    ret = {"name": name, "result": True, "changes": {}, "comment": f"Not there: {', '.join(names)}."}
    try:
        found = systemd_units.ours(names)
        if not found:
            return ret
        if __opts__["test"]:
            return {**ret, "result": None, "changes": {"removed": found}, "comment": "Units would be stopped and removed."}
        systemd_units.remove(found)
    except OSError as error:
        return {
            **ret,
            "result": False,
            "comment": f"{error.filename} could not be removed: {error.strerror}. Look for an immutable flag (lsattr) or a read-only "
            "mount, then apply again.",
        }
    except systemd_units.UnitError as error:
        return {**ret, "result": False, "comment": str(error)}
    return {**ret, "changes": {"removed": found}, "comment": "Units were stopped and removed."}


def mod_watch(name, sfun=None, units=None, needs=None, boot=True, reload=False, socket=None, **_kwargs):
    """Restart units, or have them reload, because a state they watch changed.

    name, units, needs, boot, reload, socket
        As in ``running``.
    sfun
        The function that watches.

    .. code-block:: yaml

        timers-run:
          units.running:
            - units: [apt-daily.timer]
            - watch: [{file: apt-daily.timer}]
    """
    if sfun != "running":
        return enabled(name, units)
    return _runs(name, units or [name], needs, boot, reload, socket, watched=lambda: True)


def _runs(name, names, needs, boot, reload, socket, watched):
    if needs is not None and not Path(needs).exists():
        return {"name": name, "result": True, "changes": {}, "comment": f"{needs} does not exist yet, so there is nothing to run."}
    if socket is not None:
        try:
            names = _needed(names, socket)
        except systemd_units.UnitError as error:
            return {"name": name, "result": False, "changes": {}, "comment": str(error)}
        if not names:
            return {"name": name, "result": True, "changes": {}, "comment": f"{socket} is open, and starts it when somebody needs it."}
    ret, started = _established(name, names, running=True, boot=boot)
    left = [unit for unit in names if unit not in started]
    if ret["result"] is not False and left and watched():
        _refresh(ret, left, reload)
    return ret


def _needed(names, socket):
    """Return the units without those that their open socket will start."""
    opens, *found = systemd_units.inspect([socket, *names])
    return [unit.name for unit in found if not opens.runs or unit.active != "inactive" or unit.masked or not unit.exists]


def _refresh(ret, names, reload):
    done = "reloaded" if reload else "restarted"
    words = f"{', '.join(names)} {{}}{done}, since something watched changed."
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] += " " + words.format("would be ")
    else:
        try:
            (systemd_units.reload if reload else systemd_units.restart)(names)
        except systemd_units.UnitError as error:
            ret.update(result=False, comment=str(error))
            return
        ret["comment"] += " " + words.format("")
    for unit in names:
        change = ret["changes"].setdefault(unit, {"old": "running"})
        change["new"] = f"{change['new']}, {done}" if "new" in change else done


def _watched_has_changed():
    watched = {pair for requisite in __low__.get("watch", ()) for pair in requisite.items()}
    return any(
        state.get("changes") and (tag.partition("_|-")[0], named) in watched
        for tag, state in __running__.items()
        for named in (state.get("__id__"), state.get("name"))
    )


def _established(name, names, running, boot):
    """Return the state's result, and the units that had to be started."""
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    wish = {"running": running, "boot": boot}
    try:
        wanted = [unit for unit in systemd_units.inspect(names) if unit.lacks(**wish)]
        if not wanted:
            ret["comment"] = f"{'Running' if running else 'Enabled'}: {', '.join(names)}."
            return ret, []
        goal = ", ".join(word for word, is_wanted in (("enabled", boot), ("active", running)) if is_wanted)
        changes = {unit.name: {"old": str(unit), "new": goal} for unit in wanted}
        started = [unit.name for unit in wanted if running and not unit.runs]
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"Would be put right: {', '.join(changes)}.")
            return ret, started
        for unit in wanted:
            systemd_units.establish(unit, **wish)
            ret["changes"][unit.name] = changes[unit.name]
        left = [unit for unit in systemd_units.inspect(list(changes)) if unit.lacks(**wish)]
    except systemd_units.UnitError as error:
        ret.update(result=False, comment=str(error))
        return ret, []
    if left:
        names = ", ".join(f"{unit.name} ({unit})" for unit in left)
        ret.update(
            result=False,
            comment=f"systemd did as asked, yet this is not as it should be: {names}. Its journal (`journalctl -u UNIT -n 50`) says why.",
        )
        return ret, started
    ret["comment"] = f"Put right: {', '.join(changes)}."
    return ret, started
