"""A droplet's vault in small, on a real ext4 image and this machine's kernel, and the app that writes into it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from gigglekit.files import draining
from gigglekit.vault import adopt, lobby, shred, volume
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import ENCRYPTED, KINDS, Places
from gigglekit.vault.receipt import Receipts
from gigglekit.vault.rows import Database

NOBODY = 65534


class Disk:
    """An image file with ext4 on it, and where it is mounted."""

    def __init__(self, image: Path, place: Path, size: str, features: str) -> None:
        self.image, self.place = image, place
        with image.open("wb") as file:
            file.truncate(int(size.removesuffix("M")) << 20)
        # 256 bytes per inode, or times are kept in whole seconds.
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-I", "256", "-O", features, image], check=True)
        place.mkdir()

    def mount(self) -> None:
        end = time.monotonic() + 60
        while True:
            done = subprocess.run(["mount", "-o", "loop", self.image, self.place], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            # The loop devices of this machine are few, and others use them too.
            assert time.monotonic() < end, done.stderr
            time.sleep(0.2)

    def unmount(self) -> None:
        if not os.path.ismount(self.place):
            return
        subprocess.run(["chattr", "-i", self.place], check=False, capture_output=True)
        end = time.monotonic() + 10
        while (done := subprocess.run(["umount", self.place], capture_output=True, text=True, check=False)).returncode != 0:
            if time.monotonic() > end:
                subprocess.run(["umount", "-l", self.place], check=False)
                raise AssertionError(done.stderr)
            time.sleep(0.1)
        # Who has copied all mounts meanwhile, as everything in a sandbox does, keeps the file system and its keys in the kernel.
        end = time.monotonic() + 30
        while (device := self._mounted_device()) and time.monotonic() < end:
            _unmount_elsewhere(device, self.place)
            time.sleep(0.01)

    def _mounted_device(self) -> Path | None:
        """Return the loop device that has the image, if it is mounted anywhere; that somebody else has it open is no matter."""
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if backing.read_text().strip() != str(self.image):
                    continue
                device = Path("/dev", backing.parts[3])
                try:
                    os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
                except OSError as error:
                    return device if error.errno == errno.EBUSY else None
        return None

    def sync(self) -> None:
        """Have everything in the image, without waiting for the whole machine as sync(2) does."""
        folder = os.open(self.place, os.O_RDONLY)
        try:
            draining.sync(folder)
        finally:
            os.close(folder)

    def raw(self) -> bytes:
        """Return every byte of the disk, as a thief would have it."""
        self.unmount()
        return self.image.read_bytes()


def _unmount_elsewhere(device: Path, usual: Path) -> None:
    number = os.stat(device).st_rdev
    wanted, seen = f"{os.major(number)}:{os.minor(number)}", {os.readlink("/proc/self/ns/mnt")}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            space = os.readlink(process / "ns/mnt")
            if space in seen:
                continue
            seen.add(space)
            mounts = [line.split(" ") for line in (process / "mountinfo").read_text().splitlines()]
            # Whoever has changed its root, as apt does for an image that is being built, is shown nothing outside of that.
            places = [place for _, _, what, _, place, *_ in mounts if what == wanted] or [usual]
            for place in places:
                subprocess.run(["nsenter", f"--mount={process}/ns/mnt", "umount", place], check=False, capture_output=True)


@contextlib.contextmanager
def base() -> Iterator[Path]:
    """A folder that the app's account can reach, unlike those of pytest."""
    # In memory, where hundreds of flushes cost nothing.
    memory = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 256 << 20 else None
    folder = Path(tempfile.mkdtemp(prefix="giggles-vault-", dir=memory))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def disk(folder: Path, name: str = "disk", *, size: str = "16M", features: str = "encrypt") -> Iterator[Disk]:
    """A mounted disk that is unmounted and deleted in the end."""
    made = Disk(folder / f"{name}.img", folder / name, size, features)
    try:
        made.mount()
        yield made
    finally:
        made.unmount()
        made.image.unlink()


class Droplet:
    """What the library needs of a droplet, with a volume that is mounted and prepared."""

    def __init__(self, folder: Path, uploads: Disk) -> None:
        self.disk, self.folder = uploads, folder
        self.places = Places(uploads.place, folder / "keys", folder / "ledger", folder / "vault.json", folder / "lock", "nobody", "nogroup")
        self.keyring, self.ledger, self.receipts = Keyring(self.places), Ledger(self.places), Receipts(self.places)

    def prepare(self) -> None:
        self.places.configure(ENCRYPTED)
        self.keyring.create()
        self.receipts.prepare()
        with self.volume() as opened:
            opened.prepare(self.keyring)

    def volume(self) -> contextlib.AbstractContextManager[volume.Volume]:
        return volume.mounted(self.places)

    def path(self, kind: str, user: str, name: str = "") -> Path:
        return self.disk.place / kind / user / name

    def write_clips(self, user: str | None = None, *, count: int = 2, content: bytes | None = None) -> str:
        """Write clips as the app does, for a new user if none is named."""
        user = user or str(uuid.uuid4())
        for kind in KINDS:
            os.makedirs(self.path(kind, user), exist_ok=True)
            for number in range(count):
                self.path(kind, user, f"{number}.wav").write_bytes(content or os.urandom(5000))
        return user

    def adopt(self, *, seconds: float = 3) -> adopt.Adopted:
        with self.volume() as opened:
            return adopt.adopt_all(opened, self.keyring, self.ledger, seconds=seconds)

    def renew(self, *, seconds: float = 3) -> lobby.Renewed:
        with self.volume() as opened:
            return lobby.renew(opened, self.keyring, self.ledger, seconds=seconds)

    def shred(self, user: object, restart_app: Callable[[], None] = lambda: None, database: Database | None = None) -> shred.Outcome:
        return shred.shred(self.places, user, database, restart_app)

    def examine(self, user: object, database: Database | None = None) -> shred.Found:
        return shred.examine(self.places, user, database)

    def adopted(self, count: int = 1) -> list[str]:
        """Return new users who have vaults."""
        users = [self.write_clips() for _ in range(count)]
        assert self.adopt().problems == []
        return users

    def contents(self, user: str) -> dict[str, str]:
        """Return the hash of each of a user's files, read where the app looks."""
        return {
            f"{kind}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for kind in KINDS
            if self.path(kind, user).is_dir()
            for path in sorted(self.path(kind, user).iterdir())
        }

    def vault_id(self, user: str) -> str:
        return self.keyring.vault_id(user)

    def leftovers(self) -> list[str]:
        """Return what a killed run has left that should be gone."""
        beside = [path for place in (self.places.keys, self.places.ledger) for path in place.rglob(".*")]
        rings = [path for path in self.places.keys.glob("ring.*") if path.name != os.readlink(self.places.keys / "ring")]
        aside = [path for kind in KINDS for path in (self.disk.place / kind).glob(".*")]
        copies = list(self.disk.place.rglob(".copying-*"))
        return [str(path) for path in (*beside, *rings, *aside, *copies, *(self.disk.place / ".lobby").iterdir())]


@contextlib.contextmanager
def droplet(*, size: str = "16M", features: str = "encrypt") -> Iterator[Droplet]:
    """A droplet with an empty vault."""
    with base() as folder, disk(folder, "uploads", size=size, features=features) as uploads:
        made = Droplet(folder, uploads)
        if features == "encrypt":
            made.prepare()
        yield made


class AsApp:
    """A child process that does something as the app's account; leaving the block waits for it, and ends it if need be."""

    def __init__(self, act: Callable[[], None], *, seconds: float = 60, uid: int = NOBODY) -> None:
        self._act, self._seconds, self._uid = act, seconds, uid
        self.pid = 0

    def __enter__(self) -> AsApp:
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setgroups([])
                os.setresgid(self._uid, self._uid, self._uid)
                os.setresuid(self._uid, self._uid, self._uid)
                self._act()
                code = 0
            except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(code)
        return self

    def is_running(self) -> bool:
        return bool(self.pid) and not self._wait(os.WNOHANG)

    def _wait(self, flags: int) -> bool:
        pid, status = os.waitpid(self.pid, flags)
        if pid:
            self.pid, self.code = 0, os.waitstatus_to_exitcode(status)
        return bool(pid)

    def __exit__(self, kind: object, *_: object) -> None:
        end = time.monotonic() + (self._seconds if kind is None else 0)
        while self.is_running() and time.monotonic() < end:
            time.sleep(0.01)
        if self.pid:
            os.kill(self.pid, 9)
            self._wait(0)
        if kind is None:
            assert self.code == 0, f"the app ended with {self.code}"


class Elsewhere:
    """A foreign process with a copy of all mounts of its own, as everything in a sandbox has; it may have a file open there. Its
    name is `sleep`.

    Arguments:
        path: the file.
        root: what it takes for the root of all files.
    """

    def __init__(self, path: Path | None = None, root: Path = Path("/")) -> None:
        self._path = path or Path("/dev/null")
        self._root = root

    def __enter__(self) -> Elsewhere:
        script = (
            "import os, sys, time; open('/proc/self/comm', 'w').write('sleep'); file = open(sys.argv[1]); os.chroot(sys.argv[2]);"
            " print(flush=True); time.sleep(60)"
        )
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-S", "-c", script, self._path, self._root]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"\n"
        return self

    def read(self, path: Path) -> bytes | None:
        """Return what that process would read there, None if it could not."""
        done = subprocess.run(["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "cat", path], capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


class Holder:
    """A foreign process that has a file open, and perhaps maps or writes it; its name is `sleep`."""

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self._path, self._flags = path, flags

    def __enter__(self) -> subprocess.Popen[bytes]:
        descriptor = os.open(self._path, self._flags)
        try:
            self.process = subprocess.Popen(["sleep", "60"], stdin=descriptor)
        finally:
            os.close(descriptor)
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
