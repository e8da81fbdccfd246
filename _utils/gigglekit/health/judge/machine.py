"""The machine itself: services, the vault, disks, the certificate, the release, a restart that is waited for, and who is told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gigglekit.health import recent
from gigglekit.health.expected import STARTED_BY, Expected
from gigglekit.health.facts import APP as _APP
from gigglekit.health.facts import UNIT_OF, UPLOADS, Disk, Facts
from gigglekit.health.judge.condition import PROBLEM, UNKNOWN, WARNING, Condition, Memory, Subject
from gigglekit.health.judge.runs import SETTLING_S, kinds
from gigglekit.health.judge.words import DAY, HOUR, ago, at, names, short
from gigglekit.health.units import Unit, Units

PERCENT_BACK = 3.0
"""By how much a file system must fall below its threshold before that is over."""
VAULT_PATIENCE_S = 600.0
STARTING_S = 600.0
"""How long what does not run may be on its way: it is restarted, or the machine has just started."""
_MOST_UNITS = 20
_ADOPTS = "giggles-vault-adopt.service"
SILENT_S = 840.0
"""How long the app may be without an answer: a start takes minutes, and the app is known to be busy with one request for ten."""
LOOPING_S, _LOOPING_STARTS = 540.0, 3
"""At how many looks, and over how long, systemd must have started it anew by itself."""
_RUNS = ("active", "reloading", "activating")


def expectations(wanted: Expected) -> Iterator[Subject]:
    """Yield that nobody knows what this droplet is meant to have, if so: what it lacks then cannot be told from what nobody chose."""
    if wanted.known:
        return
    unknown = Condition(
        "expected", UNKNOWN, "what this droplet is meant to have is unknown",
        "/etc/giggles/status.json is missing or damaged, so all the rest is judged as if nothing had been chosen for this droplet",
        "salt-call state.apply common writes it anew.",
    )  # fmt: skip
    yield Subject("expected", "Expectations", "", (unknown,))


def services(facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Subject]:
    """Yield the app, and all other units."""
    told = facts.units
    if told is None:
        unknown = Condition(
            "services", UNKNOWN, "systemd does not answer", "systemd does not answer, so nobody knows what runs",
            "Look at: systemctl is-system-running.", patience=STARTING_S, hides="unit:",
        )  # fmt: skip
        yield Subject("services", "Services", "", (unknown,))
        return
    expected = dict(wanted.units())
    if not (facts.vault and facts.vault.mode == "encrypted" and facts.vault.mounted):
        # It works on the volume alone; what is wrong with that is told.
        expected.pop(_ADOPTS, None)
    app = told.known.get(_APP)
    if _APP in expected and app is not None:
        yield Subject("app", "App", "runs" if facts.app is None else "runs and answers", tuple(_app(app, facts, wanted, memory)), app.since)
    # What leaves records is judged by them.
    recorded = {UNIT_OF[kind] for kind in kinds(wanted)}
    failed = [name for name in dict.fromkeys([*told.failed, *(unit.name for unit in told.known.values() if unit.state == "failed")])
              if name not in recorded and not (name == _APP and app is not None and _APP in expected)]  # fmt: skip
    judged = {_APP} if app is not None else set()
    down = [name for name in expected if name not in {*failed, *judged} and not (_runs(name, told) or _waits(name, told))]
    found = [_unit(name, expected.get(name), told.known.get(name), "has failed") for name in failed[:_MOST_UNITS]]
    found += [_unit(name, expected[name], told.known.get(name), "is not running", STARTING_S) for name in down]
    values = {"down": [name for name in expected if name in down or name in failed], "failed": list(told.failed)}
    yield Subject("services", "Services", "all run that should", tuple(found), values=values)


def _runs(name: str, told: Units) -> bool:
    unit = told.known.get(name)
    return unit is not None and unit.state in _RUNS


def _waits(name: str, told: Units) -> bool:
    unit = told.known.get(name)
    return unit is not None and unit.state == "inactive" and name in STARTED_BY and _runs(STARTED_BY[name], told)


def _app(app: Unit, facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Condition]:
    failed = app.state == "failed" or (facts.units is not None and _APP in facts.units.failed)
    if failed or app.state not in _RUNS:
        yield Condition(
            f"unit:{_APP}", PROBLEM, f"{_APP} {'failed' if failed else 'is not running'}",
            f"does not run ({app.state}, {app.result or 'no result'})",
            f"systemctl status {_APP} and journalctl -u giggles -n 50 say why; systemctl restart giggles starts it.",
            app.since, patience=0.0 if failed else STARTING_S,
        )  # fmt: skip
        return
    starting, looping = app.state == "activating", _loops(app, facts, memory)
    if not (starting or looping or facts.app):
        return
    if "vault" in wanted.roles and facts.vault and facts.vault.mode == "encrypted" and not facts.vault.mounted:
        yield Condition(
            f"unit:{_APP}", WARNING, "the app waits for the vault", "waits for the vault",
            "Unlock the vault; the app starts by itself then.", app.since, mailed=False,
        )  # fmt: skip
        return
    # A deploy or a converge starts it anew, and requests wait meanwhile. It is a problem when that does not end.
    late = looping or f"unit:{_APP}" in memory.open
    todo = f"journalctl -u giggles -n 50 and /var/log/giggles/web.log on the droplet say why; systemctl restart {_APP} starts it anew."
    text = "is starting" if starting else f"does not answer: {short(facts.app or '')}"
    if looping:
        text = f"ends and is started anew again and again, {app.restarts} times so far"
    yield Condition(
        f"unit:{_APP}", PROBLEM if late else WARNING, "the app ends again and again" if looping else "the app does not answer", text,
        todo if late else "Wait for some minutes: after a start it has to load its model.", app.since,
        patience=0.0 if looping else SILENT_S,
    )  # fmt: skip


def _loops(app: Unit, facts: Facts, memory: Memory) -> bool:
    """Tell whether systemd starts it anew by itself again and again, and still does.

    A start that somebody asked for sets systemd's count to 0, and what was before it proves nothing any more.
    """
    grew: list[float] = []
    for (_, before), (now, count) in itertools.pairwise([*memory.restarts, (facts.now, app.restarts)]):
        if count < before:
            grew = []
        elif count > before:
            grew.append(now)
    return len(grew) >= _LOOPING_STARTS and grew[-1] - grew[0] >= LOOPING_S and facts.now - grew[-1] < STARTING_S


def _unit(name: str, role: str | None, unit: Unit | None, what: str, patience: float = 0.0) -> Condition:
    shown = short(name)
    title = f"{shown} failed" if what == "has failed" else f"{shown} {what}"
    back = f"salt-call state.apply {role} brings it back" if role else f"systemctl reset-failed {shown} when that is settled"
    return Condition(
        f"unit:{shown}", PROBLEM, title, f"{shown} {what}",
        f"systemctl status {shown} and journalctl -u {shown} -n 50 say why; {back}.", unit.since if unit else None, patience=patience,
    )  # fmt: skip


def second_factor(facts: Facts, wanted: Expected) -> Iterator[Subject]:
    """Yield whether the code that ssh is to ask for can be asked for."""
    if "hardening" not in wanted.roles or wanted.second_factor is None:
        return
    missing = Condition(
        "second-factor", WARNING, "no second factor is set up",
        "ssh is to ask for a code as well as the key, and none is set up that could be asked for",
        "On the droplet, salt-call giggles.second_factor makes one and says how to confirm it; then salt-call state.apply hardening.",
        patience=SETTLING_S,
    )  # fmt: skip
    yield Subject("second-factor", "Second factor", "is set up for ssh", () if facts.second_factor else (missing,))


def vault(facts: Facts, wanted: Expected) -> Iterator[Subject]:
    """Yield how clips are kept."""
    if "vault" not in wanted.roles:
        return
    title, told = "Vault", facts.vault
    if told is None:
        unknown = Condition(
            "vault", UNKNOWN, "the vault is unknown", "nobody knows how clips are kept", "Apply it: salt-call state.apply vault.",
            variant="unknown", patience=SETTLING_S,
        )  # fmt: skip
        yield Subject("vault", title, "", (unknown,))
        return
    values = {"mode": told.mode}
    if told.mode != "encrypted":
        why = f" ({short(told.reason).rstrip('.')})" if told.reason else ""
        plain = Condition(
            "vault", WARNING, "clips lie unencrypted", f"clips lie unencrypted on this droplet{why}, and erasing a user is weaker",
            "Boot a kernel of the distribution, then salt-call state.apply vault; docs/ERASURE.md says what that means for an erasure.",
            variant="plain",
        )  # fmt: skip
        yield Subject("vault", title, "", (plain,), values=values)
    elif not told.mounted:
        unlock = facts.units.known.get("giggles-vault-unlock.service") if facts.units else None
        why = f" ({short(unlock.said)})" if unlock and unlock.said else ""
        locked = Condition(
            "vault", PROBLEM, "vault locked", f"the volume with the clips is not mounted{why}, so the app waits and nothing is stored",
            "systemctl status giggles-vault-unlock says what it waits for; systemctl start giggles-vault-unlock tries again.",
            variant="locked", patience=VAULT_PATIENCE_S,
        )  # fmt: skip
        yield Subject("vault", title, "", (locked,), values=values)
    else:
        yield Subject("vault", title, "clips lie encrypted, each user's under a key of its own", values=values)


def disks(facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Subject]:
    """Yield how full each file system is."""
    for disk in facts.disks:
        name, title = {"/": ("disk-root", "Disk"), UPLOADS: ("disk-uploads", "Disk for clips")}.get(
            disk.path, ("disk" + disk.path.replace("/", "-"), f"Disk at {disk.path}")
        )
        if disk.percent is None:
            unknown = Condition(
                f"disk:{disk.path}", UNKNOWN, f"{disk.path} cannot be looked at", f"{disk.path} cannot be looked at", "See df and dmesg.",
                variant="unknown",
            )  # fmt: skip
            yield Subject(name, title, "", (unknown,))
            continue
        values = {"percent": disk.percent, "inode_percent": disk.inode_percent, "free_mb": disk.free_mb}
        text = f"{disk.percent:.0f} % of {disk.size_mb / 1024:.1f} GB in use"
        yield Subject(name, title, text, tuple(_full(facts, disk, text, wanted, memory)), values=values)


def _full(facts: Facts, disk: Disk, text: str, wanted: Expected, memory: Memory) -> Iterator[Condition]:
    limits = wanted.thresholds
    for key, used, limit, what, look in (
        (f"disk:{disk.path}", disk.percent, limits.disk_percent, "", f"du -xh --max-depth=2 {disk.path} | sort -h | tail"),
        (f"inodes:{disk.path}", disk.inode_percent, limits.inode_percent, " of the inodes",
         f"du -x --inodes --max-depth=2 {disk.path} | sort -n | tail"),
    ):  # fmt: skip
        if used is None or used < limit - (PERCENT_BACK if key in memory.open else 0):
            continue
        since = None
        if not what:
            column = "root_percent" if disk.path == "/" else "uploads_percent"
            for entry in facts.runs.get("disk", ()) if disk.path in ("/", UPLOADS) else ():
                if (entry.number(column) or 0) < limit:
                    break
                since = entry.moment
        todo = f"When it is full, nothing can be stored. On the droplet, {look} shows what is large; "
        todo += (
            "salt-call giggles.sweep dry_run=True counts what could go, giggles:vault:size_mb makes the volume larger."
            if disk.path == UPLOADS
            else "docs/TROUBLESHOOTING.md, The disk is full, says what can go."
        )
        shown = f"{text}, and {used:.0f} %{what}" if what else text
        yield Condition(
            key, PROBLEM, f"{disk.path} {limit:g} %{what} full", f"{disk.path} is filling up: {shown}; {limit:g} % is the threshold",
            todo, since,
        )  # fmt: skip


def certificate(facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Subject]:
    """Yield how long the certificate that is served is valid."""
    if "web" not in wanted.roles:
        return
    name, title, served = "certificate", "Certificate", facts.certificate
    if not wanted.domain:
        none = Condition(
            name,
            WARNING,
            "no certificate",
            "none yet, since this droplet has no name",
            "Choose giggles:domain in the pillar.",
            mailed=False,
        )
        yield Subject(name, title, "", (none,))
        return
    if served is None:
        unreadable = Condition(
            name, UNKNOWN, "no certificate", "no certificate can be read at /etc/nginx/tls/current",
            "Apply it again: salt-call state.apply web.", variant="none", patience=SETTLING_S,
        )  # fmt: skip
        yield Subject(name, title, "", (unreadable,))
        return
    days, threshold = (served.ends - facts.now) / DAY, wanted.thresholds.certificate_days
    values = {"days": round(days, 1), "not_after": recent.written(served.ends)}
    todo = (
        "It should have been renewed by itself: journalctl -u giggles-certbot says why it was not, and systemctl start giggles-certbot "
        "tries again."
    )
    wrong = None
    if served.placeholder:
        wrong = Condition(
            name, PROBLEM, "the placeholder is served", "the placeholder is served; the authority has issued none yet",
            "salt-call state.apply web asks again and says what the authority answers.", served.begins, "placeholder", HOUR,
        )  # fmt: skip
    elif days < 0:
        wrong = Condition(
            name,
            PROBLEM,
            "certificate expired",
            f"the certificate has ended, {at(served.ends)}",
            todo,
            served.ends - threshold * DAY,
            "ended",
        )
    elif served.begins > facts.now + recent.AHEAD_S:
        wrong = Condition(
            name, PROBLEM, "certificate of the future", f"the certificate is not valid before {at(served.begins)}",
            f"The clock is wrong, here or at the authority: timedatectl. {todo}", None, "early",
        )  # fmt: skip
    elif days < threshold + (name in memory.open):
        text = f"the certificate ends in {days:.0f} days, {at(served.ends)}"
        wrong = Condition(name, PROBLEM, "certificate ends soon", text, todo, served.ends - threshold * DAY)
    yield Subject(name, title, f"valid for {days:.0f} more days", (wrong,) if wrong else (), values=values)


def release(facts: Facts, wanted: Expected) -> Iterator[Subject]:
    """Yield which release of the app is live."""
    if "app" not in wanted.roles:
        return
    name, title, live = "release", "Release", facts.release
    if live is None:
        none = Condition(
            name, PROBLEM, "no release is live", "none is live", "Apply it: salt-call state.apply app.", variant="none", patience=SETTLING_S
        )
        yield Subject(name, title, "", (none,))
        return
    text, values = short(live.commit)[:10] or "a nameless one", {"commit": live.commit, "chosen_by": live.chosen or None}
    half = Condition(
        name, PROBLEM, "half a release is live", f"{text} is live, and is not complete", "Build it anew: salt-call state.apply app.",
        variant="half", patience=SETTLING_S,
    )  # fmt: skip
    built = f", built {at(live.built)}" if live.built is not None else ""
    chosen = f", by giggles.{live.chosen}, and not what the pillar names" if live.chosen else ""
    yield Subject(name, title, f"{text}{built}{chosen}", () if live.whole else (half,), values=values)


def restart(facts: Facts, wanted: Expected) -> Iterator[Subject]:
    """Yield whether an update waits for a restart of the machine."""
    asked, days = facts.restart_asked, wanted.thresholds.reboot_days
    found: tuple[Condition, ...] = ()
    values = {"waiting_days": None if asked is None else round((facts.now - asked) / DAY, 1)}
    if asked is not None:
        age = facts.now - asked
        late = age >= days * DAY
        todo = (
            "giggles-reboot.timer restarts it at its hour unless the nightly job or a backup is at work. On the droplet: systemctl status "
            "giggles-reboot, or systemctl reboot at a quiet hour."
        )
        text = f"an update has waited for a restart for {ago(age)}"
        found = (Condition("reboot", PROBLEM if late else WARNING, "restart needed", text,
                           todo if late else "Nothing: it restarts by itself in the night.", asked, mailed=late),)  # fmt: skip
    yield Subject("restart", "Restart", "no update waits for one", found, values=values)


def alerts(facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Subject]:
    """Yield whether anybody is told. What cannot be mailed is no mail, so that all of this is only shown."""
    if "monitoring" not in wanted.roles:
        return
    if not wanted.mail:
        found = Condition(
            "alerts", WARNING, "alerts go to nobody", "go to nobody, since no address is given",
            "Name one: giggles:monitoring:mail in the pillar.", mailed=False,
        )  # fmt: skip
        yield Subject("alerts", "Alerts", "", (found,))
    elif memory.waiting and memory.failing_since is not None and facts.now - memory.failing_since > HOUR:
        mails = "1 mail waits" if memory.waiting == 1 else f"{memory.waiting} mails wait"
        found = Condition(
            "alerts", PROBLEM, "alerts cannot be mailed", f"{mails} to be sent: {short(memory.failing)}",
            "docs/TROUBLESHOOTING.md, No alert arrives, goes through it.", memory.failing_since, mailed=False,
        )  # fmt: skip
        yield Subject("alerts", "Alerts", "", (found,))
    elif memory.set_aside:
        found = Condition(
            "alerts", WARNING, "a mail was refused",
            f"the mail server refused for good what it was to tell: {names([short(subject, 80) for subject in memory.set_aside])}",
            "salt-call giggles.alerts shows what is open. Later mails are sent; ask the provider why it refuses such a one.", mailed=False,
        )  # fmt: skip
        yield Subject("alerts", "Alerts", "", (found,))
    else:
        yield Subject("alerts", "Alerts", "are mailed")
