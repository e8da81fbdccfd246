"""Puts a release in the place of the live one, judges it there, and goes back if it is not well; also where a killed run has left off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from gigglekit.files.links import exchange, point
from gigglekit.release import gate, handover, health, journal, pin, turns
from gigglekit.release.errors import ReleaseError, TrialError, UnhealthyError
from gigglekit.release.front import Front, Traffic
from gigglekit.release.journal import Entry
from gigglekit.release.plan import Surroundings
from gigglekit.release.service import State, how_it_ended
from gigglekit.release.settings import BUILDING, Layout, Settings

_DRAIN_SECONDS, _SHORT_DRAIN_SECONDS = 600.0, 5.0
"""How long is waited for requests that are under way: the longest that one is known to take, or little where the app is not well."""


@dataclass
class Course:
    """What a change has taken so far.

    Arguments:
        seconds: by step.
        notes: what somebody should know of it, one sentence each.
        longest_wait: seconds that the longest answer took while the release was switched to, as our own questions saw it.
        failed: how many of those questions were not answered.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    longest_wait: float = 0.0
    failed: int = 0

    def took(self, step: str, began: float) -> None:
        """Note that a step has ended now."""
        self.seconds[step] = round(time.monotonic() - began, 1)


class Switch:
    """One change of what is live, from the trial to the verdict.

    Arguments:
        settings: how long a release is judged, and where its files lie.
        layout: where releases lie.
        surroundings: what they run in.
        entry: what is changed; noted on the disk from the beginning to the end.
        course: filled in on the way.
    """

    def __init__(self, settings: Settings, layout: Layout, surroundings: Surroundings, entry: Entry, course: Course) -> None:
        self._settings = settings
        self._layout = layout
        self._surroundings = surroundings
        self._entry = entry
        self._course = course
        self._lent: Path | None = None

    @property
    def _target(self) -> Path:
        return self._layout.release(self._entry.commit)

    @property
    def _app(self) -> Path:
        return self._layout.current / self._settings.subdirectory

    def try_beside(self, folder: Path, seconds: float) -> bool:
        """Start the release that lies at `folder` beside the live one, and judge it there.

        Arguments:
            folder: the release.
            seconds: how long it has to be well; 0 for one look.

        Returns:
            Whether it runs now; False if there is nothing that it could run beside, or nothing was wanted.

        Raises:
            TrialError: it is not well. `give_up` ends it.
        """
        candidate = self._surroundings.candidate
        if not self._settings.trial or candidate is None or self._entry.live is None or not self._surroundings.service.state().active:
            return False
        began = time.monotonic()
        try:
            candidate.start(folder, self._settings.module)
            reason = health.wait(lambda: candidate.socket, self._surroundings.health_seconds, candidate.trouble)
            if not reason:
                asked = gate.at_socket(candidate.socket, folder / self._settings.subdirectory)
                reason = gate.judge(asked, seconds, candidate.trouble)
        finally:
            self._course.took("tried", began)
        if reason:
            raise TrialError(
                f"The release {self._entry.commit[:12]} was tried beside the running one and is not well: {reason}. No request of a "
                f"user has met it: {self._entry.live[:12]} is live and was not touched. See /var/log/giggles/web.log, correct the app or "
                "giggles:app:ref in the pillar, then deploy again."
            )
        return True

    def give_up(self) -> None:
        """End what runs beside, before anything was switched to."""
        self._stop_beside()

    def is_live_well(self) -> bool:
        """Tell whether what is live answers as it should, so that nobody is helped by ending it before another one answers."""
        service = self._surroundings.service
        return service.state().active and not gate.judge(gate.at_socket(self._surroundings.socket, self._app), 0, lambda: "")

    def go(self, staged: Path | None, *, beside: bool) -> None:
        """Switch to the release, judge it, and end what runs beside.

        Arguments:
            staged: a new build of a release that is at its place already, or None.
            beside: whether the release runs beside the live one, and may have its requests meanwhile.

        Raises:
            UnhealthyError: it is not well, and what was live before is again.
            ReleaseError: somebody else restarts the app all the time; nothing was switched.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(turns.turn(self._layout))
            except BaseException:
                self.give_up()
                self._put_away()
                raise
            self._note("switching")
            front = self._front()
            waiting = stack.enter_context(gate.Waiting(self._public_ask(front), self._surroundings.health_seconds))
            began = time.monotonic()
            try:
                if beside and staged is None:
                    self._lend()
                if staged is not None:
                    # Its files are about to get other names, so nothing may run from it.
                    self._stop_beside()
                    exchange(staged, self._target)
                if self._layout.live() != self._entry.commit:
                    clear(self._layout.current)
                    point(self._layout.current, str(self._target))
                    self._remember_before()
                reason = self._start()
                self._course.took("switched", began)
                if not reason:
                    self._take_over(_DRAIN_SECONDS)
                    reason = self._judge(front)
                if reason:
                    self._take_back(reason)
            except UnhealthyError:
                raise
            except BaseException:
                # Whatever it is: nobody is left to what runs beside. The next run reads the journal and ends this.
                self._take_over()
                raise
            finally:
                self._course.longest_wait, self._course.failed = waiting.longest, waiting.failed
        self._confirm()

    def settle(self) -> str:
        """End what a killed run has begun: judge what it switched to, or put away what it had not switched to yet.

        Returns:
            What was found and done, one sentence.

        Raises:
            UnhealthyError: it had switched to a release that is not well, and what was live before is again.
        """
        with turns.turn(self._layout):
            return self._settle()

    def _settle(self) -> str:
        entry = self._entry
        own = handover.own_name(self._surroundings.socket)
        self._lent = own if own.exists() else None
        if entry.step == "trying" or self._layout.live() != entry.commit:
            self._take_over()
            if self._layout.live() != entry.commit:
                self._drop_built()
            self._sweep()
            journal.end(self._layout)
            return f"A run before this one was ended before it had switched to {entry.commit[:12]}; what it left was removed."
        self._remember_before()
        state = self._surroundings.service.state()
        runs = state.active and (state.folder + "/").startswith(f"{self._target}/")
        front = self._front()
        # What ran beside goes on answering until the service does.
        reason = health.wait(self._own_socket, self._surroundings.health_seconds, self._ended) if runs else self._start()
        if not reason:
            self._take_over(_DRAIN_SECONDS)
            reason = self._judge(front)
        if reason:
            self._take_back(reason)
        self._confirm()
        return f"A run before this one was ended after it had switched to {entry.commit[:12]}; it was judged now, and is well."

    # --- steps --------------------------------------------------------------------------------------------------------------

    def _remember_before(self) -> None:
        """Have what is gone back to be what was live before this change; it may have been ended between one link and the other."""
        if self._entry.live not in (None, self._entry.commit):
            point(self._layout.previous, str(self._layout.release(self._entry.live)))

    def _note(self, step: journal.Step) -> None:
        self._entry = replace(self._entry, step=step)
        journal.write(self._layout, self._entry)

    def _front(self) -> Front | None:
        """Return nginx, if it could be asked before anything was changed: what keeps it away is not the release's fault."""
        front = self._surroundings.front
        if front is None:
            return None
        trouble = front.unreachable()
        if trouble:
            self._course.notes.append(f"nginx could not be asked ({trouble}), so only the app's socket was.")
            return None
        return front

    def _public_ask(self, front: Front | None) -> gate.Ask:
        return front.ask if front is not None else lambda page, seconds: health.at(self._surroundings.socket, page, seconds)

    def _lend(self) -> None:
        candidate = self._surroundings.candidate
        if candidate is None or not self._surroundings.socket.exists():
            return
        seconds = _DRAIN_SECONDS if self.is_live_well() else _SHORT_DRAIN_SECONDS
        self._lent = handover.lend(self._surroundings.socket, candidate.socket)
        handover.drain(self._surroundings.socket, seconds)

    def _take_over(self, seconds: float = _SHORT_DRAIN_SECONDS) -> None:
        """Have the service answer again, and end what answered in its place once it has no more to answer."""
        if self._lent is not None:
            handover.give_back(self._surroundings.socket)
            self._lent = None
            if self._surroundings.candidate is not None:
                handover.drain(self._surroundings.candidate.socket, seconds)
        self._stop_beside()

    def _stop_beside(self) -> None:
        if self._surroundings.candidate is not None:
            self._surroundings.candidate.stop()

    def _start(self) -> str:
        """Start the service anew, and wait until it answers. Returns why it does not."""
        service = self._surroundings.service
        try:
            if not self._own_socket().exists():
                # systemd does not notice that its socket's name was removed, and makes it anew only after a stop.
                service.stop()
            service.restart()
        except ReleaseError as error:
            return str(error).rstrip(".")
        first = service.state()

        def given_up() -> str:
            state: State = service.state()
            if state.failed:
                return f"systemd gave it up: {self._how_it_ended()}"
            if state.restarts >= first.restarts + 3:
                return f"its process keeps ending: {self._how_it_ended()}"
            return ""

        return health.wait(self._own_socket, self._surroundings.health_seconds, given_up)

    def _own_socket(self) -> Path:
        """Return where the service itself answers: under its public name again once what ran beside has ended, whoever ended it."""
        return self._lent if self._lent is not None and self._lent.exists() else self._surroundings.socket

    def _judge(self, front: Front | None) -> str:
        began = time.monotonic()
        traffic = None
        if front is None:
            asked = gate.at_socket(self._surroundings.socket, self._app)
        else:
            asked, traffic = gate.through_nginx(front, self._app), Traffic(front.log)
        reason = gate.judge(asked, self._settings.gate_seconds, self._ended_since(), traffic)
        self._course.took("judged", began)
        return reason

    def _ended_since(self) -> Callable[[], str]:
        first = self._surroundings.service.state()

        def ended() -> str:
            state = self._surroundings.service.state()
            if state.active and state.restarts == first.restarts:
                return ""
            return self._how_it_ended()

        return ended

    def _ended(self) -> str:
        return "" if self._surroundings.service.state().active else self._how_it_ended()

    def _how_it_ended(self) -> str:
        return how_it_ended(self._surroundings.service.ended())

    def _confirm(self) -> None:
        entry = self._entry
        if entry.repin:
            pin.store(self._layout, entry.pin)
        self._sweep()
        journal.end(self._layout)

    def _take_back(self, reason: str) -> None:
        entry, layout = self._entry, self._layout
        told = (
            f"The release {entry.commit[:12]} was started and is not well: {reason}. See /var/log/giggles/web.log and "
            "systemctl status giggles, correct the app or giggles:app:ref in the pillar, then deploy again."
        )
        switched = entry.live != entry.commit
        exchanged = entry.replaced is not None and self._target.lstat().st_ino != entry.replaced
        if exchanged:
            # What was changed by hand ran, and what was built anew does not: a changed place is better than none.
            exchange(layout.building(entry.commit), self._target)
        if entry.live is None:
            layout.current.unlink(missing_ok=True)
            self._surroundings.service.stop()
            self._put_away()
            raise UnhealthyError(f"{told} There is no release before it, so the app is stopped.")
        if switched:
            point(layout.current, str(layout.release(entry.live)))
            if entry.before:
                point(layout.previous, str(layout.release(entry.before)))
            else:
                layout.previous.unlink(missing_ok=True)
        if not (switched or exchanged):
            self._take_over()
            self._put_away()
            raise UnhealthyError(told)
        # It is live again, whatever becomes of this process from here on.
        still = self._start()
        self._take_over()
        self._put_away()
        after = f"and is not well either: {still}" if still else "and answers"
        raise UnhealthyError(f"{told} The release {entry.live[:12]} is live again {after}.")

    def _put_away(self) -> None:
        self._drop_built()
        self._sweep()
        journal.end(self._layout)

    def _drop_built(self) -> None:
        """Remove what was built for this change and was not well: a release that is kept is one that somebody can go back to."""
        if self._entry.built and self._layout.live() != self._entry.commit:
            shutil.rmtree(self._target, ignore_errors=True)

    def _sweep(self) -> None:
        shutil.rmtree(self._layout.building(self._entry.commit), ignore_errors=True)


def settle(settings: Settings, layout: Layout, surroundings: Surroundings, course: Course) -> None:
    """End what a killed run has begun, if one has. What was done is told in the course's notes.

    Raises:
        UnhealthyError: as `Switch.settle`.
    """
    entry = journal.load(layout)
    if entry is None:
        journal.end(layout)
        handover.give_back(surroundings.socket)
        for left in sorted(layout.releases.glob(f"*{BUILDING}")):
            shutil.rmtree(left, ignore_errors=True)
            course.notes.append(f"A run before this one was ended while it built {left.name[:12]}; what it left was removed.")
        return
    course.notes.append(Switch(settings, layout, surroundings, entry, course).settle())


def clear(link: Path) -> None:
    """Make room where a link belongs: a folder somebody put there is moved aside, never deleted."""
    if link.is_dir() and not link.is_symlink():
        link.rename(link.with_name(f"{link.name}.replaced-{int(time.time())}"))
