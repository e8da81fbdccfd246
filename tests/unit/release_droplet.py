"""A droplet's releases in a temporary folder: a real repository, real folders and sockets, and stand-ins for systemd."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gigglekit.release import deploying, live
from gigglekit.release.errors import PreflightError
from gigglekit.release.migration import Dump
from gigglekit.release.service import Ended, State
from gigglekit.release.settings import Layout, Settings


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder`, and return what it says."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.test"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Upstream:
    """A repository that tests commit to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "app").mkdir(parents=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
        (folder / "app" / "requirements.txt").write_text("")
        self.commit({"app/health": "200"})

    def commit(self, files: dict[str, str]) -> str:
        """Write files, commit them, and return the commit."""
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", "c")
        return git(self.folder, "rev-parse", "HEAD")


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class App:
    """A server at a UNIX socket that answers as the release says whose folder a note names.

    A release's file `app/health` has the status of /api/health, `app/page` that of the first page, and `app/body` what it says of its
    health; `app/lives` has how many questions it answers before its process ends. Files whose names begin with `live-` count before
    these where the release is live.
    """

    def __init__(self, socket: Path, note: Path, *, live: bool, behaviour: Mapping[str, str] | None = None) -> None:
        self._behaviour = behaviour if behaviour is not None else {}
        self._note = note
        self._live = live
        self.asked = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                page = "page" if self.path == "/" else "health"
                self.send_response(int(outer.text(page, "200")) if self.headers["Host"] == "localhost" and outer.folder else 503)
                self.end_headers()
                self.wfile.write(outer.text("body", '{"status": "healthy"}').encode())

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return ""

        self._server = _UnixServer(str(socket), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def folder(self) -> str:
        """The app's folder in the release that it runs, "" if it does not run."""
        try:
            return self._note.read_text()
        except OSError:
            return ""

    def run(self, folder: str) -> None:
        """Run a release from now on, or nothing."""
        self._note.write_text(folder)
        self.asked = 0

    def text(self, name: str, default: str) -> str:
        """Return what a file of the release says."""
        if name in self._behaviour:
            return self._behaviour[name]
        for file in (*([f"live-{name}"] if self._live else []), name):
            with contextlib.suppress(OSError):
                return Path(self.folder, file).read_text()
        return default

    @property
    def dead(self) -> bool:
        """Whether its process has answered as much as it lives for."""
        return self.asked > int(self.text("lives", str(1 << 30)))

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class FakeService:
    """Runs "the app" from the live release. What it runs is noted in a file, so that it outlives a process that is killed."""

    def __init__(self, layout: Layout, socket: Path) -> None:
        self.layout = layout
        self.restarts = 0
        self.started = 0.0
        self.stopped = False
        self.start_seconds = 0.0
        self.app = App(socket, socket.with_name("runs"), live=True)

    @property
    def folder(self) -> str:
        return self.app.folder

    def state(self) -> State:
        return State(True, bool(self.folder) and not self.app.dead, False, self.folder, self.started, False, 0)

    def ended(self) -> Ended:
        return Ended(killed=False, status=3)

    def restart(self) -> None:
        self.restarts += 1
        self.app.run("")
        time.sleep(self.start_seconds)
        self.app.run(os.path.realpath(self.layout.current / "app"))
        self.started = time.time()

    def stop(self) -> None:
        self.stopped = True
        self.app.run("")


class FakeCandidate:
    """Runs a release beside the live one."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.started: list[str] = []
        self.behaviour: dict[str, str] = {}
        self._app: App | None = None

    def start(self, release: Path, module: str) -> None:
        self.stop()
        assert module == "src.main:app"
        self._app = App(self.socket, self.socket.with_name("tried"), live=False, behaviour=self.behaviour)
        self._app.run(str(release / "app"))
        self.started.append(release.name)

    def trouble(self) -> str:
        return "its process ended by itself with exit code 3" if self._app is None or self._app.dead else ""

    def stop(self) -> None:
        if self._app is not None:
            self._app.close()
            self._app = None
        self.socket.unlink(missing_ok=True)

    @property
    def runs(self) -> bool:
        """Whether something is left running."""
        return self._app is not None


@dataclass
class Hooks:
    """What tests have going wrong.

    Arguments:
        refusal: what the pre-flight says; "" if it lets the release pass.
        dump: saves the database; None if there is no backup.
    """

    refusal: str = ""
    dump: Dump | None = None


class Droplet:
    """A droplet in a temporary folder."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.upstream = upstream
        self.layout = Layout(folder / "opt", folder / "cache", folder / "keys")
        self.layout.root.mkdir()
        self.layout.environment.write_text('SECRET_KEY="planted-secret-key"\n')
        os.utime(self.layout.environment, (1, 1))
        self.unit = folder / "giggles.service"
        self.unit.write_text("[Service]\n")
        os.utime(self.unit, (1, 1))
        # A UNIX socket's path may only have 107 characters.
        self._short = Path(tempfile.mkdtemp(prefix="g"))
        self.socket = self._short / "s.sock"
        self.service = FakeService(self.layout, self.socket)
        self.candidate = FakeCandidate(self._short / "c.sock")
        self.hooks = Hooks()
        self.builds = 0
        self.busy: list[str] = []

    def settings(self, ref: str, /, **changes: object) -> Settings:
        """Return what the pillar says when it names `ref`."""
        given: dict[str, object] = {
            "repository": f"file://{self.upstream.folder}",
            "ref": ref,
            "subdirectory": "app",
            "python": "system",
            "requirements": "requirements.txt",
            "constraints": (),
            "module": "src.main:app",
            "keep": 2,
        }
        return Settings(**{**given, **changes})  # type: ignore[arg-type]

    def make_venv(self, settings: Settings, layout: Layout, folder: Path) -> str:
        """Make no environment at all, and count it."""
        self.builds += 1
        (folder / ".venv" / "bin").mkdir(parents=True)
        return shutil.which("python3") or "python3"

    def try_out(self, *_: object) -> None:
        """Refuse the release if a test wants that."""
        if self.hooks.refusal:
            raise PreflightError(self.hooks.refusal)

    @property
    def surroundings(self) -> live.Surroundings:
        """What a release runs in."""
        return live.Surroundings(
            self.service, self.socket, self.unit, 1.5, self.make_venv, self.try_out, self.candidate, None, self.hooks.dump
        )

    def plan(self, ref: str, **changes: object) -> live.Plan:
        """Look."""
        return live.examine(self.settings(ref, **changes), self.layout, self.surroundings)

    def apply(self, ref: str, **changes: object) -> live.Plan:
        """Do as the state does."""
        plan = self.plan(ref, **changes)
        if not plan.unchanged:
            live.apply(self.settings(ref, **changes), self.layout, self.surroundings)
        return plan

    def deploy(self, pillar: str, ref: str | None = None, **changes: object) -> deploying.Deployed:
        """Do as giggles.deploy does where the pillar names `pillar`."""
        return deploying.deploy(self.settings(pillar, **changes), self.layout, self.surroundings, ref=ref, busy=lambda: self.busy, wait=0)

    def rollback(self, pillar: str, to: str | None = None, **changes: object) -> deploying.Deployed:
        """Do as giggles.rollback does where the pillar names `pillar`."""
        return deploying.rollback(self.settings(pillar, **changes), self.layout, self.surroundings, to=to, busy=lambda: self.busy, wait=0)

    @contextlib.contextmanager
    def altered(self, commit: str, name: str, text: str) -> Iterator[None]:
        """Have a finished release behave in another way, though it is as it was built."""
        behaviour = self.candidate.behaviour
        behaviour[name.removeprefix("app/")] = text
        yield
        behaviour.clear()

    @property
    def releases(self) -> list[str]:
        """Names of all that lies where releases lie."""
        return sorted(path.name for path in self.layout.releases.iterdir())

    def close(self) -> None:
        """End what runs."""
        self.candidate.stop()
        self.service.app.close()
        shutil.rmtree(self._short)
