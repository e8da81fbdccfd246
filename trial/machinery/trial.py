"""A whole trial: the droplet, its neighbours, and what happens to them together."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import answers, host, image, neighbourhood, record, tree
from .errors import TrialError
from .image import Recipe
from .locking import forget, held
from .machine import Machine
from .record import Record
from .settings import (
    DROPLET_MEMORY_BYTES,
    NEIGHBOURS_MEMORY_BYTES,
    TREE,
    UPLOADS,
    Place,
    images_directory,
    state_directory,
)
from .steps import run, step

_BUNDLE = "/root/giggles-bundle.tar.gz"
_TIMER_STAMPS = ("apt-daily", "apt-daily-upgrade", "fstrim", "e2scrub_all", "dpkg-db-backup", "logrotate")


def droplet(trial: Record) -> Machine:
    """Return the trial's droplet."""
    root = trial.place.folder / "droplet"
    return Machine(trial.name, "droplet", root, trial.droplet_port, trial.name, DROPLET_MEMORY_BYTES)


def neighbours(trial: Record) -> Machine:
    """Return the machine with the trial's neighbours."""
    root = trial.home_place.folder / "neighbours"
    return Machine(trial.home, "neighbours", root, trial.neighbours_port, "neighbours", NEIGHBOURS_MEMORY_BYTES)


def _trial_lock(name: str) -> str:
    return f"trial-{name}"


@dataclass(frozen=True)
class Wish:
    """What a droplet shall be.

    Arguments:
        release: its Debian release; None for what it is already, bookworm for a new one.
        beside: the trial whose neighbours it shall have; None for what it has already, its own for a new one.
        roles: what bootstrap is told that it is for; None for what it was told before, everything for a new one.
        fresh: begin again from the base image.
        replace: the same for the droplet alone, as after its loss: database, bucket and everything else around it stay.
        bare: stop before anything of the project runs.
        bundle: what bootstrap installs Salt from; None for the lock file, or for what the droplet has already.
    """

    release: str | None = None
    beside: str | None = None
    roles: tuple[str, ...] | None = None
    fresh: bool = False
    replace: bool = False
    bare: bool = False
    bundle: Path | None = None


def up(name: str, wish: Wish) -> int:
    """Have the droplet booted, with the working tree on it and, unless `bare`, converged by bootstrap.

    Arguments:
        name: the trial's name.
        wish: what it shall be.

    Returns:
        bootstrap's exit code; 0 for a bare one.

    Raises:
        TrialError: the machine cannot be had.
    """
    if wish.bundle is not None and not wish.bundle.is_file():
        raise TrialError(f"There is no bundle at {wish.bundle}. Build one with packaging/build, which says where it lies.")
    host.install_packages()
    images_directory().mkdir(parents=True, exist_ok=True)
    home = _home(name, wish)
    with held(_trial_lock(name)):
        trial = record.load(name) if not wish.fresh else None
        if wish.fresh and Place(name).folder.exists():
            with step("removed the earlier droplet"):
                _purge(name)
        if trial is None:
            trial = record.create(name, wish.release or "bookworm", home)
        elif wish.replace:
            with step("removed the earlier droplet, and left its neighbours alone"):
                droplet(trial).stop(seconds=5)
                image.remove_tree(droplet(trial).root)
            trial = dataclasses.replace(trial, release=wish.release or trial.release).with_bootstrapped(False)
        elif wish.release is not None and wish.release != trial.release:
            raise TrialError(
                f"The droplet {name} runs {trial.release}, and {wish.release} was asked for; a release is not changed in "
                f"place. Add --fresh to begin again with {wish.release}, or take another --name."
            )
        if wish.roles is not None:
            trial = dataclasses.replace(trial, roles=wish.roles)
            trial.save()
        _have_both_machines(trial)
        with step(f"copied the project to {TREE}"):
            tree.copy_project(trial.place, droplet(trial).root)
        if wish.bare:
            return 0
        code = _bootstrap(trial, wish.bundle)
        record.require(name).with_bootstrapped(code == 0)
        return code


def _home(name: str, wish: Wish) -> Record | None:
    """Return the trial whose neighbours the droplet shall have, None for neighbours of its own.

    Raises:
        TrialError: that cannot be.
    """
    before = None
    try:
        before = record.load(name)
    except TrialError:
        if not wish.fresh:
            raise
    if wish.beside is None:
        if before is None or before.beside is None:
            return None
        return record.require(before.beside)
    if before is not None and not wish.fresh and before.beside != wish.beside:
        raise TrialError(
            f"The droplet {name} stands {'beside ' + before.beside if before.beside else 'alone'}, which is not changed in place. "
            f"Add --fresh to begin again beside {wish.beside}, or take another --name."
        )
    home = record.require(wish.beside)
    if home.beside is not None or home.name == name:
        raise TrialError(
            f"{wish.beside} has no neighbours of its own, so nobody can stand beside it. Name the droplet that has: "
            f"--beside {home.beside or 'another one'}."
        )
    if record.beside(name):
        raise TrialError(f"Others stand beside {name}, so it needs its own neighbours. Take another --name, or purge those first.")
    return home


def _have_both_machines(trial: Record) -> None:
    machines: tuple[Machine, ...] = (neighbours(trial), droplet(trial))
    recipes: tuple[Recipe, ...] = (image.neighbours_recipe(), image.droplet_recipe(trial.release))
    furnishing: tuple[Callable[[Record, Path], None], ...] = (neighbourhood.furnish, _furnish_droplet)
    if trial.beside is not None:
        if neighbours(trial).leader() is None:
            raise TrialError(
                f"{trial.name} stands beside {trial.beside}, which is not running, and so without a name server. "
                f"Start that first with `trial/droplet up --name {trial.beside}`."
            )
        machines, recipes, furnishing = machines[1:], recipes[1:], furnishing[1:]
    _make_keys(trial)

    def make(machine: Machine, recipe: Recipe, furnish: Callable[[Record, Path], None]) -> None:
        if not machine.root.exists():
            image.ensure(recipe)
            with step(f"made the {machine.role} machine"):
                image.copy(recipe, machine.root, lambda root: furnish(trial, root))

    with ThreadPoolExecutor(max_workers=2) as pool:
        for _ in pool.map(make, machines, recipes, furnishing):
            pass
        starting = [machine for machine in machines if machine.leader() is None]
        for machine in starting:
            machine.boot()
        with step(f"booted {' and '.join(machine.role for machine in starting)}" if starting else "found it running"):
            for _ in pool.map(Machine.wait_until_up, machines):
                pass
    if trial.beside is not None:
        neighbourhood.welcome(trial, neighbours(trial))
        return
    with step("prepared the neighbours"):
        neighbourhood.prepare(trial, neighbours(trial))


def _make_keys(trial: Record) -> None:
    """Make the operator's SSH key and the certificate of the ACME directory, once for a trial."""
    key = trial.home_place.private_key
    if not key.with_suffix(".pub").exists():
        key.unlink(missing_ok=True)
        run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"operator@{trial.domain}", "-f", key],
            why="The operator's SSH key could not be made",
            remedy="Check that ssh-keygen works here.",
        )
    neighbourhood.make_authority(trial)


def _furnish_droplet(trial: Record, root: Path) -> None:
    """Write what a cloud provider's first boot writes: name, keys, resolver."""
    run(["ssh-keygen", "-A", "-f", root], why="The droplet's host keys could not be made", remedy="Check the disk.")
    image.write_file(root, "/etc/hostname", f"{trial.name}\n")
    image.write_file(
        root,
        "/etc/hosts",
        f"127.0.0.1 localhost\n127.0.1.1 {trial.name}\n::1 localhost ip6-localhost ip6-loopback\n",
    )
    image.write_file(root, "/etc/resolv.conf", f"nameserver {trial.neighbours_port.address}\n")
    image.write_file(root, "/root/.ssh/authorized_keys", trial.home_place.private_key.with_suffix(".pub").read_text(), 0o600)
    (root / "root/.ssh").chmod(0o700)
    image.write_file(root, "/etc/giggles-trial/acme-ca.pem", trial.home_place.acme_ca.read_text())
    # A machine that has never run its daily jobs would run them at boot, at a random minute of a test.
    for timer in _TIMER_STAMPS:
        image.write_file(root, f"/var/lib/systemd/timers/stamp-{timer}.timer", "")


def _bootstrap(trial: Record, bundle: Path | None) -> int:
    machine = droplet(trial)
    script = machine.root / TREE.lstrip("/") / "bootstrap.sh"
    if not script.exists():
        raise TrialError(
            f"The droplet {trial.name} is booted, but this working tree has no bootstrap.sh to run on it. "
            "Use --bare to have the machine alone."
        )
    image.write_file(machine.root, answers.PATH, answers.text(trial), 0o600)
    options = ["--non-interactive", "--answers", answers.PATH]
    if bundle is not None:
        shutil.copyfile(bundle, machine.root / _BUNDLE.lstrip("/"))
        options += ["--bundle", _BUNDLE, "--sha256", hashlib.sha256(bundle.read_bytes()).hexdigest()]
    done = subprocess.run(
        [*machine.entrance, f"{TREE}/bootstrap.sh", *options],
        stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    return done.returncode


def state(trial: Record) -> str:
    """Return `running`, `stopped`, or `half-made` after an interrupted up."""
    if droplet(trial).leader() is not None:
        return "running"
    return "stopped" if droplet(trial).root.exists() else "half-made"


def describe(name: str) -> dict[str, Any]:
    """Return everything that tests and tools need to know of a trial, as JSON would have it.

    Raises:
        TrialError: there is no such trial.
    """
    trial = record.require(name)
    machine, others = droplet(trial), neighbours(trial)
    leader = machine.leader()
    inside = Path(f"/proc/{leader}/root") if leader is not None else machine.root
    return {
        "name": trial.name,
        "beside": trial.beside,
        "release": trial.release,
        "state": state(trial),
        "bootstrapped": trial.bootstrapped,
        "ip": trial.droplet_port.address,
        "domain": trial.domain,
        "acme_root": str(neighbourhood.fetch_issuing_root(trial, others)),
        "uploads": f"{inside}{UPLOADS}",
        "rootfs": str(machine.root),
        "leader_pid": leader,
        "netns": trial.droplet_port.namespace,
        "console": str(machine.console),
        "ssh": {
            "user": "operator" if trial.bootstrapped else "root",
            "port": 22,
            "private_key": str(trial.home_place.private_key),
        },
        **neighbourhood.describe(trial, others),
    }


def restart(name: str) -> str:
    """Reboot the droplet and return systemd's word for its state afterwards.

    Raises:
        TrialError: it is not running or does not come back.
    """
    with held(_trial_lock(name)), step(f"rebooted {name}"):
        return droplet(record.require(name)).restart()


def down(name: str, purge: bool) -> None:
    """Stop a trial, and with `purge` remove everything of it; a stopped or missing one is fine.

    Those that stand beside it go first, since they have nothing without its neighbours.

    Raises:
        TrialError: something of it cannot be removed.
    """
    for other in record.beside(name):
        down(other, purge)
    with held(_trial_lock(name)):
        if not Place(name).folder.exists():
            forget(_trial_lock(name))
            return
        if purge:
            with step(f"removed {name}"):
                _purge(name)
            forget(_trial_lock(name))
            return
        with step(f"stopped {name}"):
            for machine in _own_machines(record.require(name)):
                machine.stop()


def _own_machines(trial: Record) -> tuple[Machine, ...]:
    return (droplet(trial),) if trial.beside is not None else (droplet(trial), neighbours(trial))


def _purge(name: str) -> None:
    for other in record.beside(name):
        with held(_trial_lock(other)):
            _purge(other)
    try:
        trial = record.load(name)
    except TrialError:
        trial = None
    # Whatever runs was started after the record was written, and is found by name without it.
    trial = trial or Record(name, 0, "bookworm", "", "", "")
    for machine in _own_machines(trial):
        machine.stop(seconds=5)
    if trial.beside is not None:
        neighbourhood.forget(trial, neighbours(trial))
    image.remove_tree(trial.place.folder)


def tidy(images: bool) -> None:
    """Remove the folders that hold nothing any more.

    Arguments:
        images: remove the cached base images too.
    """
    if images:
        with step("removed the cached images"):
            image.remove_tree(images_directory())
    for folder in (state_directory() / "trials", state_directory()):
        # Other trials or the images may still be in it.
        with contextlib.suppress(OSError):
            folder.rmdir()
