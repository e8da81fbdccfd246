"""One booted machine: a directory tree under systemd-nspawn with a real systemd as its first process.

The host's process table is the only record of what runs, so that a command killed at any moment is survived.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, image, network
from .errors import TrialError
from .settings import DROPLET_PROCESSORS, PROJECT
from .steps import CLEAN_ENVIRONMENT, run

_REBOOT_ASKED = 133
"""systemd-nspawn --keep-unit ends with this code when the machine wants to be started again."""


@dataclass(frozen=True)
class Machine:
    """One machine of a trial.

    Arguments:
        trial: the trial's name.
        role: `droplet` or `neighbours`.
        root: its directory tree on this host.
        port: where it is plugged in.
        hostname: its name as it sees it.
        memory_bytes: its memory.
    """

    trial: str
    role: str
    root: Path
    port: network.Port
    hostname: str
    memory_bytes: int

    @property
    def title(self) -> str:
        """A name that no other machine on this host has."""
        return f"giggles-{self.trial}-{self.role}"

    @property
    def console(self) -> Path:
        """What the machine prints while booting."""
        return self.root.with_name(f"{self.role}-console.log")

    def nspawn(self) -> int | None:
        """Return the process that holds the machine, None when it is not running."""
        wanted = [b"systemd-nspawn", f"--directory={self.root}".encode()]
        found = {process for process, arguments in _command_lines() if arguments[:2] == wanted}
        # While it starts, its children still look like it.
        return next((process for process in found if _parent(process) not in found), None)

    def leader(self) -> int | None:
        """Return the machine's first process as this host counts, None when it is not running."""
        holder = self.nspawn()
        return _first_process_below(holder) if holder is not None else None

    def boot(self) -> None:
        """Plug the machine in and start it; does not wait for it.

        Raises:
            TrialError: the network cannot be had or systemd-nspawn is missing.
        """
        self.stop()
        network.plug_in(self.port)
        groups = cgroups.make(self.title, self.memory_bytes)
        nspawn = [
            "systemd-nspawn",
            f"--directory={self.root}",
            f"--machine={self.title}",
            f"--hostname={self.hostname}",
            "--quiet",
            "--register=no",
            "--keep-unit",
            f"--network-namespace-path={self.port.path}",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--capability=all",
            "--console=pipe",
            # --boot would start systemd before the resource controllers are writable.
            "--kill-signal=SIGRTMIN+3",
        ]
        if (os.cpu_count() or 1) > DROPLET_PROCESSORS:
            nspawn.append(f"--cpu-affinity=0-{DROPLET_PROCESSORS - 1}")
        nspawn.append(image.INIT_PATH)
        environment = dict(CLEAN_ENVIRONMENT)
        if Path("/run/systemd/system").is_dir():
            self._start_as_unit(nspawn)
            return
        enter_groups = "".join(f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))}; " for group in groups)
        until_ended = f"code=$?; [ $code -eq {_REBOOT_ASKED} ] || exit $code"
        script = f"{enter_groups}while :; do {shlex.join(nspawn)}; {until_ended}; done"
        with self.console.open("ab") as console:
            subprocess.Popen(
                ["sh", "-c", script, self._keeper],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env=environment,
                start_new_session=True,
            )

    @property
    def _keeper(self) -> str:
        return f"{self.title}:{self.root}"

    def _start_as_unit(self, nspawn: list[str]) -> None:
        """Start it below the host's own systemd, which then keeps it alive past this command's session."""
        program = shutil.which(nspawn[0], path=CLEAN_ENVIRONMENT["PATH"]) or nspawn[0]
        # The process must be found by its first two arguments, so argv[0] stays the bare name.
        inner = f"exec -a {nspawn[0]} {shlex.quote(program)} {shlex.join(nspawn[1:])}"
        properties = {
            "Delegate": "yes",
            "KillMode": "mixed",
            "RestartForceExitStatus": str(_REBOOT_ASKED),
            "SuccessExitStatus": str(_REBOOT_ASKED),
            "MemoryMax": str(self.memory_bytes),
            "StandardOutput": f"append:{self.console}",
            "StandardError": f"append:{self.console}",
        }
        run(
            ["systemd-run", f"--unit={self.title}", "--collect", "--quiet",
             *(f"--property={key}={value}" for key, value in properties.items()), "bash", "-c", inner],
            why=f"{self.title} could not be started",
            remedy=f"See journalctl -u {self.title}.",
        )  # fmt: skip

    def wait_until_up(self, seconds: float = 240) -> str:
        """Wait until the machine has finished booting.

        Arguments:
            seconds: how long to wait.

        Returns:
            systemd's word for its state: `running`, or `degraded` when a unit failed.

        Raises:
            TrialError: it ended, or was not up within that time.
        """
        deadline = time.monotonic() + seconds
        state = "not started"
        missed = 0
        while time.monotonic() < deadline:
            done = self.ask("systemctl", "is-system-running")
            state = (done.stdout.strip() or done.stderr.strip()) if done is not None else "not started"
            if state in ("running", "degraded"):
                return state
            gone = done is None and self._keeper_process() is None and not Path("/run/systemd/system").is_dir()
            # A list of processes that is read while one starts may lack it.
            missed = missed + 1 if gone else 0
            if missed > 4:
                break
            time.sleep(0.2)
        raise TrialError(
            f"{self.title} did not finish booting within {seconds:.0f} s (last state: {state}). Its console is in "
            f"{self.console}. Try `trial/droplet up --fresh --name {self.trial}`.",
            output=self.console.read_text(errors="replace")[-2000:] if self.console.exists() else "",
        )

    @property
    def entrance(self) -> list[str]:
        """The command line that runs what follows it inside, as `trial/droplet exec` does."""
        tool = str(PROJECT / "trial/droplet")
        return [sys.executable, tool, "exec", "--name", self.trial, "--role", self.role, "--"]

    def ask(self, *command: str, stdin: str = "", seconds: float = 60) -> subprocess.CompletedProcess[str] | None:
        """Run a short command inside and return what it printed; None when the machine is not running.

        Arguments:
            command: program and arguments.
            stdin: text for its standard input; secrets go here, never among the arguments.
            seconds: limit; past it the command is killed.

        Raises:
            TrialError: it took too long.
        """
        if self.leader() is None:
            return None
        try:
            return subprocess.run(
                [*self.entrance, *command],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TrialError(
                f"{command[0]} was still running in {self.title} after {seconds:.0f} s. The machine may be overloaded: "
                f"look with `trial/droplet exec --name {self.trial} -- top -b -n 1`."
            ) from error

    def tell(self, *command: str, stdin: str = "", seconds: float = 60) -> str:
        """Run a command inside that has to succeed, and return what it printed.

        Raises:
            TrialError: it failed, took too long, or the machine is not running.
        """
        done = self.ask(*command, stdin=stdin, seconds=seconds)
        if done is None:
            raise TrialError(f"{self.title} is not running. Start it with `trial/droplet up --name {self.trial}`.")
        if done.returncode != 0:
            raise TrialError(
                f"{command[0]} failed in {self.title} with exit code {done.returncode}. See its output above, and its "
                "journal with journalctl inside.",
                output=(done.stdout + done.stderr).strip(),
            )
        return done.stdout

    def restart(self, seconds: float = 120) -> str:
        """Reboot the machine: its services come down in order and it boots again.

        Arguments:
            seconds: limit for both together.

        Returns:
            The state after it, as `wait_until_up` does.

        Raises:
            TrialError: it is not running, or did not come back in time.
        """
        before = self.leader()
        if before is None:
            raise TrialError(f"{self.title} is not running, so it cannot be rebooted. Start it with `trial/droplet up`.")
        self.ask("systemctl", "reboot")
        deadline = time.monotonic() + seconds
        while self.leader() in (before, None):
            if time.monotonic() > deadline:
                raise TrialError(f"{self.title} did not go down and come back within {seconds:.0f} s. Its console is in {self.console}.")
            time.sleep(0.1)
        return self.wait_until_up(max(10.0, deadline - time.monotonic()))

    def stop(self, seconds: float = 30) -> None:
        """Shut the machine down in order, by force past the limit, and unplug it; a stopped one is fine.

        Arguments:
            seconds: time for an orderly shutdown.
        """
        keeper = self._keeper_process()
        if keeper is not None:
            _end(keeper, signal.SIGKILL)
        holder = self.nspawn()
        leader = _first_process_below(holder) if holder is not None else None
        # Asked while it runs: afterwards the files of its temporary file systems are gone.
        attached = _loop_devices_of(Path(f"/proc/{leader}/root") if leader is not None else self.root)
        if leader is not None:
            # What systemd understands as "power off".
            _end(leader, signal.SIGRTMIN + 4)
            _wait_gone(leader, seconds)
        for process in (leader, holder):
            if process is not None:
                _end(process, signal.SIGKILL)
                _wait_gone(process, 10)
        if Path("/run/systemd/system").is_dir():
            subprocess.run(["systemctl", "stop", f"{self.title}.service"], capture_output=True, check=False)
        for device in attached:
            _detach(device)
        network.unplug(self.port)
        cgroups.remove(self.title)

    def _keeper_process(self) -> int | None:
        for process, arguments in _command_lines():
            if len(arguments) == 4 and arguments[0] == b"sh" and arguments[3] == self._keeper.encode():
                return process
        return None


def _command_lines() -> list[tuple[int, list[bytes]]]:
    result: list[tuple[int, list[bytes]]] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                text = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if text:
                result.append((int(folder.name), text.rstrip(b"\0").split(b"\0")))
    return result


def _parent(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def _first_process_below(holder: int) -> int | None:
    """Return the child that is process 1 of its own namespace."""
    try:
        children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
    except OSError:
        return None
    for child in children:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue
        numbers = re.search(r"^NSpid:\s+(.*)$", status, re.MULTILINE)
        if numbers and len(numbers[1].split()) > 1 and numbers[1].split()[-1] == "1":
            return int(child)
    return None


def _end(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _wait_gone(process: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)


def _loop_devices_of(tree: Path) -> list[str]:
    """Return the loop devices attached to files below `tree`.

    The kernel gives a device's file by the name it has inside the machine, where every machine may have one of that name.
    So a file counts as the device's when it is the same inode.

    Arguments:
        tree: the machine's directory tree; of a running one /proc/<first process>/root, which shows its mounts as well.
    """
    done = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=CLEAN_ENVIRONMENT,
        check=False,
    )
    found: list[str] = []
    for line in done.stdout.splitlines():
        fields = line.split(maxsplit=3)
        if len(fields) < 4:
            continue
        device, inode, number, file = fields
        with contextlib.suppress(OSError):
            status = (tree / file.lstrip("/")).stat()
            if (str(status.st_ino), f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}") == (inode, number):
                found.append(device)
    return found


def _detach(device: str) -> None:
    # The kernel frees a device by itself when the last mount of it goes, which may be at this moment.
    if subprocess.run(["losetup", device], capture_output=True, env=CLEAN_ENVIRONMENT, check=False).returncode != 0:
        return
    run(
        ["losetup", "--detach", device],
        why=f"{device} could not be freed",
        remedy="Find who holds it with fuser, then use losetup --detach.",
    )
