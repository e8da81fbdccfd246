"""
The monitors that look at this server from outside, at UptimeRobot, and who they alert.

It is asked once a day and whenever the settings have changed; in between, a run makes no request.

.. code-block:: yaml

    uptimerobot-monitors-exact:
      uptimerobot.monitors: []
"""

from pathlib import Path

from gigglekit.health.uptimerobot import noted as notes_of
from gigglekit.health.uptimerobot import settings as settings_of
from gigglekit.health.uptimerobot.errors import UnreachableError, UptimeRobotError

_NONE = "UptimeRobot does not look at this server (giggles:monitoring:uptimerobot). docs/MONITORING.md says how it would."
_LEFT = (
    "There is no key any more, so the monitors that this droplet made at UptimeRobot are still there: remove those whose names end with "
    "(giggles-salt) in its dashboard, or set the key again with giggles:monitoring:uptimerobot:enabled false."
)


def __virtual__():
    return "uptimerobot"


def monitors(name, settings="/etc/giggles/uptimerobot.json", notes="/var/lib/giggles/uptimerobot/noted.json"):
    """
    The monitors and alert contacts at UptimeRobot are as the settings say. What people made there is left alone. An UptimeRobot
    that cannot be reached is told, and is no failure unless the settings have changed: the next run asks again.

    name
        Not used; any text.
    settings
        The file with the settings.
    notes
        Where it is noted what was made, and when was looked.

    .. code-block:: yaml

        uptimerobot-monitors-exact:
          uptimerobot.monitors: []
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    path, notes = Path(settings), Path(notes)
    try:
        chosen = settings_of.load(path)
        noted = notes_of.read(path, notes)
        if chosen is None:
            return _without_settings(ret, noted)
        if not chosen.enabled and not (noted.monitors or noted.contacts):
            return {**ret, "comment": _NONE}
        if not noted.due:
            return {**ret, "comment": f"The monitors at UptimeRobot were as they should be at {noted.day}."}
        return _kept(ret, chosen, noted, path, notes)
    except UptimeRobotError as error:
        return {**ret, "result": False, "comment": str(error)}
    except OSError as error:
        where = error.filename or notes
        return {**ret, "result": False, "comment": f"{where}: {error.strerror}. Look at df and dmesg, then apply again."}


def _kept(ret, chosen, noted, path, notes):
    from gigglekit.health.uptimerobot.client import Client, Patience
    from gigglekit.health.uptimerobot.keeping import announced, carry_out, look

    # A free plan's minute may have to end twice. Nobody waits longer for a converge, and the next one goes on.
    client = Client(chosen.key, api=chosen.api, patience=Patience(seconds=120.0))
    done = []
    try:
        found = look(client, chosen, noted)
        remarks = [*found.remarks]
        if __opts__["test"]:
            if not found.changes:
                return {**ret, "comment": " ".join(["The monitors at UptimeRobot are as they should be.", *remarks])}
            words = "The monitors at UptimeRobot would be changed."
            return {**ret, "result": None, "changes": announced(found.changes), "comment": " ".join([words, *remarks])}
        mine = carry_out(client, found, notes, done=done.append)
    except UnreachableError as error:
        known = f"They were as they should be at {noted.day}." if noted.time is not None else ""
        told = {**ret, "changes": announced(tuple(done)), "comment": " ".join(filter(None, [str(error), known]))}
        if noted.time is not None and not done:
            return told
        if __opts__["test"]:
            return {**told, "result": None, "changes": {"monitors": "looked at"}}
        return {**told, "result": False}
    except UptimeRobotError as error:
        return {**ret, "result": False, "changes": announced(tuple(done)), "comment": str(error)}
    notes_of.note_look(path, notes, *mine)
    words = "The monitors at UptimeRobot were changed." if done else "The monitors at UptimeRobot are as they should be."
    return {**ret, "changes": announced(tuple(done)), "comment": " ".join([words, *remarks])}


def _without_settings(ret, noted):
    monitoring = __pillar__.get("giggles", {}).get("monitoring", {})
    if __opts__["test"] and (monitoring.get("uptimerobot") or {}).get("enabled"):
        return {**ret, "result": None, "changes": {"monitors": "looked at"}, "comment": "UptimeRobot would be asked."}
    return {**ret, "comment": _LEFT if noted.monitors or noted.contacts else _NONE}
