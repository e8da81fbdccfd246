"""Units that run and start at boot, several at once."""

from gigglekit.systemd import units as systemd_units


def __virtual__():
    return "units"


def running(name, units=None):
    """Have units unmasked, enabled and running. A change in a watched state restarts them.

    name
        The unit, or in words what the units are for.
    units
        The units, if they are several; a name without a suffix is a service.

    .. code-block:: yaml

        timers-run:
          units.running:
            - units: [apt-daily.timer, apt-daily-upgrade.timer]
    """
    return _established(name, units, running=True)


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
    return _established(name, units, running=False)


def mod_watch(name, sfun=None, units=None, **_kwargs):
    """Restart units because a state they watch changed.

    name, units
        As in ``running``.
    sfun
        The function that watches.

    .. code-block:: yaml

        timers-run:
          units.running:
            - units: [apt-daily.timer]
            - watch: [{file: apt-daily.timer}]
    """
    ret = running(name, units) if sfun == "running" else enabled(name, units)
    names = [unit for unit in units or [name] if unit not in ret["changes"]]
    if ret["result"] is False or sfun != "running" or not names:
        return ret
    if __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"Would be restarted: {', '.join(names)}."
    else:
        try:
            systemd_units.restart(names)
        except systemd_units.UnitError as error:
            ret.update(result=False, comment=str(error))
            return ret
        ret["comment"] = f"Restarted: {', '.join(names)}."
    ret["changes"].update({unit: {"old": "running", "new": "restarted"} for unit in names})
    return ret


def _established(name, units, running):
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    names = units or [name]
    try:
        wanted = [unit for unit in systemd_units.inspect(names) if unit.masked or not unit.starts_at_boot or (running and not unit.runs)]
        if not wanted:
            ret["comment"] = f"{'Running' if running else 'Enabled'}: {', '.join(names)}."
            return ret
        goal = "enabled, active" if running else "enabled"
        changes = {unit.name: {"old": str(unit), "new": goal} for unit in wanted}
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"Would be put right: {', '.join(changes)}.")
            return ret
        for unit in wanted:
            systemd_units.establish(unit, running=running)
            ret["changes"][unit.name] = changes[unit.name]
        left = [unit for unit in systemd_units.inspect(list(changes)) if not unit.starts_at_boot or (running and not unit.runs)]
    except systemd_units.UnitError as error:
        ret.update(result=False, comment=str(error))
        return ret
    if left:
        names = ", ".join(f"{unit.name} ({unit})" for unit in left)
        ret.update(
            result=False,
            comment=f"systemd did as asked, yet this is not as it should be: {names}. Its journal (`journalctl -u UNIT -n 50`) says why.",
        )
        return ret
    ret["comment"] = f"Put right: {', '.join(changes)}."
    return ret
