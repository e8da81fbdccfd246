"""What giggles-converge.service runs: fetch, apply, record. `python -m gigglekit.health.converge_run [--pull] [--branch NAME] …`

Whatever a new commit does to this very program, the server goes on: a commit with which it, or what watches over it, does not start is
not taken, and one whose states do not render is put back: the newest commit that was applied as a whole is applied again. That is found
by a later run as well, should this one be killed in between.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.command import CommandTimeoutError, Outcome, run
from gigglekit.files.replacing import replace
from gigglekit.health import basis, converge, expected, facts, recording, taken, watch
from gigglekit.health.at_work import at_work
from gigglekit.health.cleaning import Cleaner
from gigglekit.health.fetching import FetchError, Tree
from gigglekit.health.places import Places
from gigglekit.health.recent import AHEAD_S, written
from gigglekit.health.salt_of_tree import SaltOfTree

OUTPUTTER = "json"
"""How Salt shows what nobody reads: the record is made by its returner."""
_RUN_SECONDS = 5400.0
_TRY_SECONDS = 60.0
_WAIT_SECONDS, _LOOK_SECONDS = 600.0, 5.0
_WATCH_SECONDS = 3600.0
"""The watch looks every five minutes; after so long nobody is told anything."""
_PROGRAMS = (
    "gigglekit.delivery.__main__",
    "gigglekit.fleet.__main__",
    "gigglekit.operations.__main__",
    "gigglekit.release.health",
    "gigglekit.vault.__main__",
)


class Busy(Exception):
    """Something else was at work for all the time that may be waited."""


@dataclass(frozen=True)
class Machine:
    """The droplet; another one in tests.

    Arguments:
        tree: the repository that it converges from.
        runtime: the folder with Salt's programs.
        records: where records lie.
        memory: folder for the lock and for what is handed over.
        others: tells what is at work.
        wait: seconds that others are waited for, and between two looks.
        last: what the last whole run had.
        taken: the note on a commit that was taken and not applied yet.
        droplet: where the watch keeps what it does.
    """

    tree: Path = Path("/srv/giggles-salt")
    runtime: Path = Path("/opt/salt/current/bin")
    records: Path = records.FOLDER
    memory: Path = Path("/run/giggles")
    others: Callable[[], list[str]] = at_work
    wait: tuple[float, float] = (_WAIT_SECONDS, _LOOK_SECONDS)
    last: Path = basis.PATH
    taken: Path = taken.PATH
    droplet: Places = field(default_factory=Places)

    @property
    def salt(self) -> SaltOfTree:
        """What keeps Salt as the tree asks for it."""
        return SaltOfTree(self.runtime, self.tree)


@dataclass
class _Findings:
    """What is found on the way, beside what states return; `half_laid` while the tree may be as a run left it that was killed."""

    drift: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    half_laid: bool = False

    def fail(self, identifier: str, name: str, comment: str) -> None:
        self.failures.append({"id": identifier, "name": name, "comment": comment[:1500]})


def converged(machine: Machine, *, pull: bool, signers: Path | None, branch: str | None = None) -> dict[str, Any] | None:
    """Fetch, apply and record.

    Arguments:
        machine: this droplet.
        pull: whether new commits are fetched; without it, the tree is applied as it is.
        signers: file of those who may sign commits; None if signatures are not asked for.
        branch: the branch that is fetched; None for the one that is checked out.

    Returns:
        The record; None if another self-converge is at work.

    Raises:
        Busy: something that a converge does not run beside did not end.
    """
    machine.memory.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(machine.memory / "converge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        _wait(machine, machine.others)
        began = time.time()
        findings = _Findings()
        _watch_over_the_watch(machine, findings, began)
        tree = Tree(machine.tree, signers, branch=branch)
        made = _pull_and_apply(tree, machine, findings) if pull else _applied(machine, None, findings)
        record = _whole(made, findings, began)
        records.append(machine.records, "converge", record, keep=recording.KEPT)
        if not findings.half_laid:
            taken.forget(machine.taken)
        return record
    finally:
        os.close(lock)


def _fetched(tree: Tree, machine: Machine, findings: _Findings) -> str | None:
    clean = Cleaner({})
    try:
        note = taken.load(machine.taken)
        killed = note is not None and note.commit != tree.head()
        findings.half_laid = killed
        if killed:
            tree.unlock()
        put = tree.put_away()
        findings.half_laid = False
        if put is not None and killed:
            print(f"A run before this one was killed while it laid out a commit. What it left is kept: git stash show -p {put.kept[:12]}")
        elif put is not None:
            names = ", ".join(put.names[:5]) + (", …" if len(put.names) > 5 else "")
            how = f"git -C {machine.tree} stash show -p --include-untracked {put.kept[:12]}"
            findings.drift.append({"id": "repository-unedited", "name": str(machine.tree), "summary": clean(f"{names}: see {how}", 300)})
        looked = tree.look()
    except FetchError as error:
        findings.fail("repository-fetched", str(machine.tree), clean(str(error), 1500))
        return None
    if looked.reason:
        print(looked.reason)
    return looked.commit


def _pull_and_apply(tree: Tree, machine: Machine, findings: _Findings) -> dict[str, Any]:
    new = _fetched(tree, machine, findings)
    try:
        here = tree.head()
        back = _way_back(tree, machine, here)
    except FetchError as error:
        findings.fail("repository-fetched", str(machine.tree), str(error))
        return _applied(machine, None, findings)
    known = _known(machine, here, asking=new is not None)
    if new is not None and _take(tree, machine, new, known, findings):
        here = new
    made = _applied(machine, known, findings)
    if made.get("rendered") or here == back:
        return made
    try:
        tree.put_back(back)
    except FetchError as error:
        findings.fail("commit-put-back", back[:12], str(error))
    why = "; ".join(failure["comment"] for failure in made["failures"])
    comment = f"Commit {here[:12]} cannot be applied, so {back[:12]} was put back and applied. Correct it and push again. {why}"
    findings.fail("commit-applied", here[:12], comment)
    return _applied(machine, known, findings)


def _way_back(tree: Tree, machine: Machine, here: str) -> str:
    """Return the commit to go back to from a later one: the newest that was applied as a whole, if the tree has come from it."""
    last = basis.load(machine.last)
    good = last.basis.commit if last else None
    return good if good and good != here and tree.is_ancestor(good, here) else here


def _known(machine: Machine, here: str, *, asking: bool) -> frozenset[str] | None:
    """Return the ids of the states that are drift whatever commit is applied; None if nobody knows.

    Arguments:
        machine: this droplet.
        here: the commit that its tree has.
        asking: whether to ask Salt, which takes its time.
    """
    note, last = taken.load(machine.taken), basis.load(machine.last)
    if note is not None and note.commit == here:
        return note.known
    # What a commit would change that was never applied is intended.
    if last is not None and last.basis.commit != here:
        return None
    # By name, before the new commit could be blamed for it.
    return _would_change(machine) if asking else None


def _take(tree: Tree, machine: Machine, new: str, known: frozenset[str] | None, findings: _Findings) -> bool:
    """Take a new commit, if what converges the droplet, and watches over it, starts with it; tell whether it was taken."""
    try:
        # Tried beside the tree: killed then, nothing has changed, and this program can be started again.
        with tempfile.TemporaryDirectory(dir=machine.memory, prefix="converge.") as name:
            tree.lay_out(new, "_utils", Path(name))
            problem = _problem_of_start(machine, Path(name))
        if problem:
            comment = f"Commit {new[:12]} cannot be applied, so it was not taken. Correct it and push again. {problem}"
            findings.fail("commit-applied", new[:12], Cleaner({})(comment, 1500))
            return False
        taken.store(taken.Taken(new, known), machine.taken)
        tree.take(new)
    except (FetchError, OSError) as error:
        with contextlib.suppress(FetchError):
            findings.half_laid = bool(tree.locks())
        findings.fail("repository-fetched", str(machine.tree), str(error))
        return False
    return True


def _would_change(machine: Machine) -> frozenset[str] | None:
    """Return the ids of the states that an apply would change now; None if Salt does not say."""
    try:
        returned = json.loads(_salt(machine, ["--out=json", "state.apply", "test=True"], {}).output)["local"]
    except (ValueError, KeyError, TypeError, OSError, CommandTimeoutError):
        return None
    if not converge.is_rendered(returned):
        return None
    return frozenset(change.id for change in converge.changes(returned, lambda text, _: text))


def _problem_of_start(machine: Machine, library: Path) -> str:
    """Return why this program, or another one that the server needs, does not start with the library in a folder; "" if all do."""
    command = [str(machine.runtime / "python"), "-s", "-m", "gigglekit.health.converge_run", "--try"]
    environment = {"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        tried = run(command, seconds=_TRY_SECONDS, environment=environment)
    except (OSError, CommandTimeoutError) as error:
        return f"Its programs do not start ({error.strerror if isinstance(error, OSError) else error})."
    return "" if tried.code == 0 else f"Its programs do not start with it: {tried.last_words or f'exit code {tried.code}'}."


def _try_programs() -> None:
    """Import whatever converges this droplet and watches over it, as this tree has it; raises whatever an import raises."""
    import gigglekit.health

    names = [module.name for module in pkgutil.walk_packages(gigglekit.health.__path__, "gigglekit.health.")]
    for name in (*names, *_PROGRAMS):
        importlib.import_module(name)


def _watch_over_the_watch(machine: Machine, findings: _Findings, now: float) -> None:
    """Note a failure if the watch has not looked for an hour: it cannot tell that itself."""
    places = machine.droplet
    wanted = expected.read(places.expected)
    # Not right after a start of the machine or a change of who is told, when there may not have been a look yet.
    if wanted is None or "monitoring" not in wanted.roles or facts.uptime(places) < _WATCH_SECONDS:
        return
    looks = [watch.remembered(places, now).looked]
    for path in (places.settings, places.page):
        with contextlib.suppress(OSError):
            looks.append(path.stat().st_mtime)
    # One from the future is of a clock that was wrong.
    newest = max((look for look in looks if look <= now + AHEAD_S), default=0.0)
    if now - newest > _WATCH_SECONDS:
        findings.fail(
            "watch-looks", "giggles-watch.service",
            f"Nothing has looked at this server since {written(newest)}, though it is to be looked at every five minutes, so nobody is "
            "told what is wrong with it. This run applies the states of monitoring, which start the timer again; if that does not help, "
            "journalctl -u giggles-watch says why.",
        )  # fmt: skip


def _applied(machine: Machine, known: frozenset[str] | None, findings: _Findings) -> dict[str, Any]:
    """Apply the tree, with the Salt that it asks for; with the one before if nothing can be applied with that."""
    runtime = machine.salt
    new = runtime.ensure(findings)
    made = _apply(machine, known)
    if not runtime.is_unproven:
        return made
    if made.get("rendered"):
        runtime.prove()
        return made
    if not runtime.back(findings):
        return made
    # What does not render with either is no fault of Salt's.
    again = _apply(machine, known)
    if again.get("rendered"):
        runtime.refuse(new, findings)
    return again


def _apply(machine: Machine, known: frozenset[str] | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=machine.memory, prefix="converge.") as name:
        handed = Path(name)
        replace(handed / recording.KNOWN, json.dumps(None if known is None else sorted(known)).encode())
        end = time.monotonic() + machine.wait[0]
        while True:
            try:
                ended = _salt(machine, [f"--out={OUTPUTTER}", "state.apply"], {recording.HANDOVER: str(handed)})
                why = f"salt-call ended with {ended.code}"
            except CommandTimeoutError as error:
                ended, why = None, str(error)
            except OSError as error:
                ended, why = None, f"salt-call cannot be run: {error.strerror}"
            if (handed / recording.OUTCOME).exists():
                return dict(json.loads((handed / recording.OUTCOME).read_bytes()))
            # Without an outcome Salt refused, since somebody's own run is at work.
            if ended is None or not _somebody_applies(machine):
                break
            if time.monotonic() > end:
                raise Busy("a run of states that somebody started")
            time.sleep(machine.wait[1])
    comment = f"Salt ended without saying what it did ({why}). Run it by hand to see more: salt-call state.apply"
    return {
        "ok": False, "rendered": False, "changed": 0, "failed": 1, "drift": [], "intended": [], "diffs": [], "commit": None,
        "previous_commit": None, "failures": [{"id": "rendered", "name": "state.apply", "comment": comment}],
    }  # fmt: skip


def _somebody_applies(machine: Machine) -> bool:
    try:
        said = _salt(machine, ["--out=json", "state.running"], {}).output
        return bool(json.loads(said)["local"])
    except (ValueError, KeyError, TypeError, OSError, CommandTimeoutError):
        return False


def _salt(machine: Machine, arguments: list[str], environment: Mapping[str, str]) -> Outcome:
    command = [str(machine.runtime / "salt-call"), "--local", "--retcode-passthrough", "--log-level=error", *arguments]
    return run(command, seconds=_RUN_SECONDS, environment={"PYTHONWARNINGS": "ignore", **environment})


def _whole(made: dict[str, Any], findings: _Findings, began: float) -> dict[str, Any]:
    record = {key: value for key, value in made.items() if key != "rendered"}
    return {
        **record,
        "ok": bool(made["ok"]) and not findings.failures,
        "trigger": "timer",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "changed": made["changed"] + len(findings.drift),
        "failed": made["failed"] + len(findings.failures),
        "drift": findings.drift + made["drift"],
        "failures": findings.failures + made["failures"],
    }


def _wait(machine: Machine, others: Callable[[], list[str]]) -> None:
    end = time.monotonic() + machine.wait[0]
    while found := others():
        if time.monotonic() > end:
            raise Busy(", ".join(found))
        time.sleep(machine.wait[1])


def main() -> int:
    """Run it; what came of it is one line and one paragraph for each failure. The exit code is 0 if all is well.

    It is 75 (EX_TEMPFAIL) if something else kept it from doing anything: no failure, and nothing that a dead-man check may take for a
    good run.
    """
    parser = argparse.ArgumentParser(prog="converge_run", description=__doc__)
    parser.add_argument("--pull", action="store_true", help="fetch new commits first")
    parser.add_argument("--branch", help="the branch to fetch, if it is another one than is checked out")
    parser.add_argument("--allowed-signers", type=Path, help="file of those who may sign commits")
    # Asked of a new commit by the program of the one before: it has to stay.
    parser.add_argument("--try", dest="only_try", action="store_true", help="look whether the programs of this tree start, and end")
    given = parser.parse_args()
    if given.only_try:
        _try_programs()
        return 0
    try:
        record = converged(Machine(), pull=given.pull, signers=given.allowed_signers, branch=given.branch)
    except Busy as error:
        print(f"Nothing was done, since something else is at work: {error}. The next run tries again.")
        return os.EX_TEMPFAIL
    except OSError as error:
        print(
            f"{error.filename or 'The record'}: {error.strerror}. Look at df and dmesg, then: systemctl start giggles-converge",
            file=sys.stderr,
        )
        return 1
    if record is None:
        print("Nothing was done, since another self-converge is at work.")
        return os.EX_TEMPFAIL
    counts = f"{len(record['drift'])} changes of drift, {len(record['intended'])} intended, {record['failed']} failed"
    print(f"Converged at commit {str(record['commit'])[:12]} in {record['seconds']} s: {counts}.")
    for change in record["drift"]:
        print(f"drift: {change['id']} ({change['name']}): {change['summary']}")
    for failure in record["failures"]:
        print(f"{failure['id']} ({failure['name']}): {failure['comment']}", file=sys.stderr)
    return 0 if record["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
