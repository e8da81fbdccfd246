"""A droplet's releases in a temporary folder: a real repository, real folders and sockets, and stand-ins for systemd."""

from __future__ import annotations

import http.server
import os
import shutil
import socketserver
import subprocess
import tempfile
import threading
import time
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
    """A server at a UNIX socket that answers as the release says that it runs.

    A release's file `app/health` has the status of /api/health, `app/page` that of the first page, and `app/body` what it says of its
    health; `app/lives` has how many questions it answers before its process ends.
    """

    def __init__(self, socket: Path) -> None:
        self.folder = ""
        self.asked = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                page = "page" if self.path == "/" else "health"
                self.send_response(outer.said(page, 200) if self.headers["Host"] == "localhost" else 400)
                self.end_headers()
                self.wfile.write(outer.text("body", '{"status": "healthy"}').encode())

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return ""

        self._server = _UnixServer(str(socket), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def text(self, name: str, default: str) -> str:
        """Return what a file of the release says."""
        try:
            return Path(self.folder, name).read_text()
        except OSError:
            return default

    def said(self, name: str, default: int) -> int:
        """Return the number in a file of the release."""
        return int(self.text(name, str(default))) if self.folder else 503

    @property
    def dead(self) -> bool:
        """Whether its process has answered as much as it lives for."""
        return self.asked > self.said("lives", 1 << 30)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class FakeService:
    """Runs "the app" from the live release."""

    def __init__(self, layout: Layout, socket: Path) -> None:
        self.layout = layout
        self.restarts = 0
        self.started = 0.0
        self.stopped = False
        self.app = App(socket)

    @property
    def folder(self) -> str:
        return self.app.folder

    def state(self) -> State:
        return State(True, bool(self.folder) and not self.app.dead, False, self.folder, self.started, False, 0)

    def ended(self) -> Ended:
        return Ended(killed=False, status=3)

    def restart(self) -> None:
        self.restarts += 1
        self.app.folder = os.path.realpath(self.layout.current / "app")
        self.app.asked = 0
        self.started = time.time()

    def stop(self) -> None:
        self.stopped = True
        self.app.folder = ""


class FakeCandidate:
    """Runs a release beside the live one."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.started: list[str] = []
        self.answered = 0
        self._app: App | None = None

    def start(self, release: Path, module: str) -> None:
        self.stop()
        assert module == "src.main:app"
        self._app = App(self.socket)
        self._app.folder = str(release / "app")
        self.started.append(release.name)

    def trouble(self) -> str:
        return "its process ended by itself with exit code 3" if self._app is None or self._app.dead else ""

    def stop(self) -> None:
        if self._app is not None:
            self.answered = self._app.asked
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
            self.service, self.socket, self.unit, 0.6, self.make_venv, self.try_out, self.candidate, None, self.hooks.dump
        )

    def plan(self, ref: str, **changes: object) -> live.Plan:
        """Look."""
        return live.examine(self.settings(ref, **changes), self.layout, self.surroundings)

    def apply(self, ref: str, **changes: object) -> live.Plan:
        """Do as the state does."""
        plan = self.plan(ref, **changes)
        if not plan.unchanged:
            live.apply(plan, self.settings(ref, **changes), self.layout, self.surroundings)
        return plan

    def deploy(self, pillar: str, ref: str | None = None, **changes: object) -> deploying.Deployed:
        """Do as giggles.deploy does where the pillar names `pillar`."""
        return deploying.deploy(self.settings(pillar, **changes), self.layout, self.surroundings, ref=ref, busy=lambda: self.busy, wait=0)

    def rollback(self, pillar: str, to: str | None = None, **changes: object) -> deploying.Deployed:
        """Do as giggles.rollback does where the pillar names `pillar`."""
        return deploying.rollback(self.settings(pillar, **changes), self.layout, self.surroundings, to=to, busy=lambda: self.busy, wait=0)

    @property
    def releases(self) -> list[str]:
        """Names of all that lies where releases lie."""
        return sorted(path.name for path in self.layout.releases.iterdir())

    def close(self) -> None:
        """End what runs."""
        self.candidate.stop()
        self.service.app.close()
        shutil.rmtree(self._short)
