"""Base images: one directory tree per release, built once and copied for each droplet."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from . import host
from .errors import TrialError
from .locking import held
from .settings import LOOP_DEVICES, PROJECT, images_directory
from .steps import run, step, succeeds

_COMMON_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "libnss-systemd", "ca-certificates", "iproute2", "procps",
    "tzdata", "python3",
)  # fmt: skip
_DROPLET_PACKAGES = (
    "openssh-server", "openssh-client", "sudo", "cron", "curl", "wget", "locales", "less", "kmod", "e2fsprogs",
    "iputils-ping", "gnupg", "logrotate", "netbase", "nano", "bash-completion", "xz-utils",
)  # fmt: skip
# Half of that image, and copied for every trial: documentation, translations and PostgreSQL's compiler.
_NEIGHBOURS_LEAVE_OUT = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*",
    "/usr/lib/postgresql/15/lib/bitcode/*", "/usr/lib/*/libLLVM*", "/usr/lib/*/libz3*",
)  # fmt: skip
_NEIGHBOURS_PACKAGES = ("pebble", "postgresql-15", "dnsmasq", "git", "python3-venv", "openssl")

_INIT = """\
#!/bin/sh
# The first process of the machine, before its systemd. Everything here stays within the machine's own namespaces.
# A container's resource controllers are read-only on hosts with version 1 control groups, and systemd then runs
# services without their MemoryMax=.
for controller in memory cpu cpuacct pids blkio devices; do
    [ -d "/sys/fs/cgroup/$controller" ] && mount -o remount,rw,bind "/sys/fs/cgroup/$controller"
done 2>/dev/null
# The network's settings belong to the machine's own network namespace; the kernel's other settings stay read-only.
mount --bind /proc/sys/net /proc/sys/net && mount -o remount,rw,bind /proc/sys/net
# Sizes are worked out from this file, and the host's memory is not the droplet's.
[ -e /usr/lib/giggles-trial/meminfo ] && mount --bind /usr/lib/giggles-trial/meminfo /proc/meminfo
exec /lib/systemd/systemd
"""
# ioctl_iflags(2): FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, and FS_IMMUTABLE_FL with FS_APPEND_FL.
_GET_FLAGS, _SET_FLAGS, _UNREMOVABLE = 0x80086601, 0x40086602, 0x10 | 0x20
_UNUSED_SECONDS = 24 * 3600
INIT_PATH = "/usr/lib/giggles-trial/init"
_MEMORY_TOTAL_KB = 2014208
"""What a droplet sold as 2 GB shows: the rest is the kernel's."""
_MEMINFO = {
    "MemTotal": _MEMORY_TOTAL_KB,
    "MemFree": 1436520,
    "MemAvailable": 1701840,
    "Buffers": 19404,
    "Cached": 355212,
    "SwapCached": 0,
    "Active": 152360,
    "Inactive": 313128,
    "SwapTotal": 0,
    "SwapFree": 0,
    "Dirty": 0,
    "Writeback": 0,
    "AnonPages": 90912,
    "Mapped": 88104,
    "Shmem": 1040,
    "Slab": 61996,
    "SReclaimable": 32140,
    "CommitLimit": _MEMORY_TOTAL_KB // 2,
    "Committed_AS": 241820,
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an image holds; its hash names the image.

    Arguments:
        kind: `droplet` or `neighbours`.
        release: Debian's code name.
        packages: installed on top of the minimal system.
        files: path inside the image → text.
        executables: those of `files` with mode 0755.
        left_out: paths (with wildcards) that are not unpacked from packages.
        commands: shell lines run at the end, with `$1` as the image's root.
        mirror, security_mirror: where packages come from.
    """

    kind: str
    release: str
    packages: tuple[str, ...]
    mirror: str
    security_mirror: str | None
    files: dict[str, str] = field(default_factory=dict)
    executables: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    def key(self) -> str:
        """Return the short hash under which the built image is kept."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def path(self) -> Path:
        """Return where the built image is, or will be."""
        return images_directory() / f"{self.kind}-{self.release}-{self.key()}"

    def sources(self) -> str:
        """Return the image's apt sources."""
        lines = [f"deb {self.mirror} {suite} main" for suite in (self.release, f"{self.release}-updates")]
        if self.security_mirror:
            lines.append(f"deb {self.security_mirror} {self.release}-security main")
        return "\n".join(lines) + "\n"


def droplet_recipe(release: str) -> Recipe:
    """Return the recipe of a bare droplet of `release`: what a cloud provider's image has, and nothing of ours."""
    files = _files_from_this_machine()
    files["/etc/ssh/sshd_config.d/50-cloud-init.conf"] = "PasswordAuthentication no\n"
    files["/usr/lib/giggles-trial/meminfo"] = "".join(f"{f'{key}:':<15} {size:>8} kB\n" for key, size in _MEMINFO.items())
    return _recipe("droplet", release, _DROPLET_PACKAGES, files)


def neighbours_recipe() -> Recipe:
    """Return the recipe of the machine that plays the rest of the internet."""
    files = _files_from_this_machine()
    files["/opt/neighbours/requirements.txt"] = (PROJECT / "trial/neighbours/requirements.txt").read_text()
    static = PROJECT / "trial/neighbours/files"
    for path in sorted(static.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[f"/{path.relative_to(static)}"] = path.read_text()
    units = " ".join(sorted(Path(name).name for name in files if name.startswith("/etc/systemd/system/neighbour-")))
    commands = (
        f'chroot "$1" systemctl --quiet enable {units}',
        'chroot "$1" python3 -m venv /opt/neighbours/venv',
        'chroot "$1" /opt/neighbours/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps '
        "--require-hashes --only-binary :all: -r /opt/neighbours/requirements.txt",
    )
    plain = _recipe("neighbours", "bookworm", _NEIGHBOURS_PACKAGES, files)
    return replace(plain, left_out=_NEIGHBOURS_LEAVE_OUT, commands=commands)


def _recipe(kind: str, release: str, packages: tuple[str, ...], files: dict[str, str]) -> Recipe:
    mirror, security_mirror = host.mirrors()
    nodes = ["c /dev/loop-control 0660 root disk - 10:237"]
    nodes += [f"b /dev/loop{number} 0660 root disk - 7:{number}" for number in range(LOOP_DEVICES)]
    files["/etc/tmpfiles.d/giggles-trial-loop.conf"] = "".join(f"{node}\n" for node in nodes)
    files[INIT_PATH] = _INIT
    return Recipe(
        kind=kind,
        release=release,
        packages=(*_COMMON_PACKAGES, *packages),
        mirror=mirror,
        security_mirror=security_mirror,
        files=files,
        executables=(INIT_PATH,),
    )


def _files_from_this_machine() -> dict[str, str]:
    """Return what lets the image reach the internet as this machine does: proxies and added CA certificates."""
    files: dict[str, str] = {}
    options = host.apt_options()
    if options:
        files["/etc/apt/apt.conf"] = options
    authorities = host.local_authorities()
    for path in authorities:
        files[f"/usr/local/share/ca-certificates/{path.name}"] = path.read_text()
    if authorities:
        bundle = "/etc/ssl/certs/ca-certificates.crt"
        files["/etc/pip.conf"] = f"[global]\ncert = {bundle}\n"
        files["/etc/uv/uv.toml"] = "native-tls = true\n"
    return files


def ensure(recipe: Recipe) -> Path:
    """Return the image built from `recipe`, building it first if it is not there.

    Several calls at once, from several processes too, build it once.

    Raises:
        TrialError: the packages cannot be had, or the disk is full.
    """
    path = recipe.path()
    if path.exists():
        return path
    with held(f"image-{recipe.kind}-{recipe.release}", seconds=1200):
        if path.exists():
            return path
        with step(f"built the {recipe.kind} image of {recipe.release}"):
            _build(recipe, path)
    return path


def _build(recipe: Recipe, path: Path) -> None:
    prefix = f".building-{recipe.kind}-{recipe.release}-"
    for leftover in images_directory().glob(f"{prefix}*"):
        remove_tree(leftover)
    free = shutil.disk_usage(images_directory()).free
    if free < 4 * 1024**3:
        raise TrialError(
            f"Building an image needs 4 GB below {images_directory()} and {free / 1024**3:.1f} GB are free. "
            "Free some space, or set GIGGLES_TRIAL_DIR to a folder on a larger disk."
        )
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=images_directory()))
    root = work / "root"
    overlay = work / "overlay"
    for name, text in recipe.files.items():
        target = overlay / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755 if name in recipe.executables else 0o644)
    for folder in (overlay, *overlay.rglob("*/")):
        # Packed with their modes, whatever the caller's umask is.
        if folder.is_dir():
            folder.chmod(0o755)
    early = work / "early.tar"
    run(
        ["tar", "--create", "--file", early, "--directory", overlay, "--owner=0", "--group=0", "."],
        why="The image's own files could not be packed",
        remedy="Check the disk.",
    )
    hooks = [
        f'--essential-hook=tar --extract --no-overwrite-dir --file {early} --directory "$1"',
        '--customize-hook=chroot "$1" update-ca-certificates >/dev/null',
        *(f"--customize-hook={command}" for command in recipe.commands),
        # Everything that must differ from machine to machine is made when a machine is made from the image.
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id '
        '"$1"/etc/hostname "$1"/etc/resolv.conf',
    ]
    sources = work / "sources.list"
    sources.write_text(recipe.sources())
    run(
        # In a process namespace of its own, so that a killed build takes all its children along.
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
         "mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(recipe.packages)}",
         *(f"--dpkgopt=path-exclude={path}" for path in recipe.left_out),
         *hooks, recipe.release, root, sources],
        why=f"The base image of {recipe.release} could not be built",
        remedy="Check that apt-get update works on this machine and that the disk has room, then run this again.",
        seconds=1200,
    )  # fmt: skip
    for generated in (root / "etc/apt/sources.list.d").glob("*"):
        generated.unlink()
    (root / "etc/apt/sources.list").write_text(recipe.sources())
    for older in images_directory().glob(f"{recipe.kind}-{recipe.release}-*"):
        # Not at once: another working tree, with another recipe, may be copying from it.
        if time.time() - older.stat().st_mtime > _UNUSED_SECONDS:
            remove_tree(older)
    root.rename(path)
    os.utime(path)
    remove_tree(work)


def copy(recipe: Recipe, destination: Path, furnish: Callable[[Path], None]) -> None:
    """Make `destination` a copy of the built image, if it does not exist.

    Arguments:
        recipe: the image.
        destination: the new machine's directory tree; it appears only when it is complete.
        furnish: writes what makes this machine different from others into the tree it is given.

    Raises:
        TrialError: the disk is full, or the image is damaged.
    """
    if destination.exists():
        return
    image = ensure(recipe)
    os.utime(image)
    incoming = destination.with_name(f".{destination.name}.incoming")
    remove_tree(incoming)
    destination.parent.mkdir(parents=True, exist_ok=True)
    run(
        ["cp", "--archive", "--reflink=auto", image, incoming],
        why=f"The image could not be copied to {destination}",
        remedy="Check that the disk has room; `trial/droplet down --purge --images` removes damaged images.",
    )
    write_file(incoming, "/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
    furnish(incoming)
    incoming.rename(destination)


def write_file(root: Path, name: str, text: str, mode: int = 0o644) -> None:
    """Write a file of root's into a machine's directory tree.

    Arguments:
        root: the tree.
        name: the file's absolute path as the machine sees it; no link may lie on it.
        text: its content.
        mode: its permissions.
    """
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)


def remove_tree(path: Path) -> None:
    """Remove a folder with all below it, immutable files too; a missing one is fine.

    Raises:
        TrialError: something is still mounted or busy in it.
    """
    if not path.exists():
        return
    remove = ["rm", "-rf", "--one-file-system", str(path)]
    if not succeeds(remove, seconds=600):
        _clear_flags(path)
        run(remove, why=f"{path} could not be removed", remedy="See with lsattr and findmnt what holds it.")


def _clear_flags(path: Path) -> None:
    """Take the flags off that keep even root from removing a file (chattr +i, +a)."""
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            entry = Path(folder, name)
            if not entry.is_symlink() and (entry.is_dir() or entry.is_file()):
                descriptor = os.open(entry, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    flags = struct.unpack("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(4)))[0]
                    if flags & _UNREMOVABLE:
                        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i", flags & ~_UNREMOVABLE))
                finally:
                    os.close(descriptor)
