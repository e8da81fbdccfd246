"""Clips on a booted droplet: encrypted as soon as they are stored, adopted within seconds, and never lost on the way."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import clips
from .clips import IMAGE, KEYS, LEDGER, UPLOADS, Written, ask, library, new_users, storing, wrong
from .conftest import Droplet
from .load import under_load
from .test_app import chosen
from .test_bad_input import paragraph
from .test_drift import Mutation, gone, has, judge, repair, stopped

MARKER = b"people laughing, as a thief would look for it"
OPEN = "/usr/local/lib/giggles/vault-is-open"
PROMISED_SECONDS = 5.0
BOUND_SECONDS = 20.0
"""What a machine keeps that several people use at once."""

# Prints JSON: the key that each folder of the volume is encrypted by ("" if it is not), and whether the root is closed.
_FOLDERS = """
import json, os
from gigglekit.vault import fscrypt
from gigglekit.vault.places import Places
from gigglekit.vault.volume import mounted
found = {}
with mounted(Places()) as volume:
    for place, folders, _, here in os.fwalk(".", dir_fd=volume.root):
        found[place.removeprefix("./")] = (fscrypt.identifier_of(here) or b"").hex()
        folders[:] = [name for name in folders if name != "lost+found"]
    print(json.dumps({"folders": found, "closed": volume.is_closed()}))
"""
_STATUS = """
import json, sys
from gigglekit.vault import fscrypt
from gigglekit.vault.places import Places
from gigglekit.vault.volume import mounted
with mounted(Places()) as volume:
    print(json.dumps([fscrypt.status(volume.root, bytes.fromhex(one)).name for one in sys.argv[1:]]))
"""


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """At the end of all that is done to the volume, a highstate has nothing to repair."""
    droplet.converge()
    yield
    assert droplet.converge().changed == {}
    assert droplet.shell("systemctl list-units --failed --plain --no-legend 'giggles*' '*uploads*'") == ""


@pytest.fixture(scope="module")
def written(droplet: Droplet) -> Iterator[Written]:
    """Have 50 users store clips while everything that works on the volume works."""
    users = new_users(50)
    busy = clips.start(droplet, "vaults")
    lobby = clips.start(droplet, "renew_lobby")
    done = clips.store(droplet, users, clips=4, size=32_000, marker=MARKER)
    assert clips.answer(busy).code == 0
    renewed = clips.answer(lobby)
    assert renewed.code == 0, renewed.text
    yield done
    clips.forgotten(droplet, users)


def folders(droplet: Droplet) -> dict[str, str]:
    """Return which key each folder of the volume is encrypted by."""
    return dict(library(droplet, _FOLDERS)["folders"])


def links(droplet: Droplet) -> str:
    return droplet.shell(f"find {UPLOADS}/clips {UPLOADS}/audio -type l -printf '%p %l\\n' | sort")


# --- storing ----------------------------------------------------------------------------------------------------------


def test_clips_of_fifty_users_are_adopted_while_they_are_stored(droplet: Droplet, written: Written) -> None:
    assert written.failed == []
    assert written.unanswered == 0
    assert len(written.written) == 200
    assert all(row for *_, row in written.written), "a clip has no row"
    slowest = max(written.adopted.values())
    typical = sorted(written.adopted.values())[len(written.adopted) // 2]
    late = sum(seconds > PROMISED_SECONDS for seconds in written.adopted.values())
    print(f"50 users adopted {typical:.2f} s after their first request (median), {slowest:.2f} s at most, {late} of them later than 5 s")
    assert len(written.adopted) == 50
    assert slowest < BOUND_SECONDS
    droplet.wait_for("the new users to be adopted", lambda: clips.adopted(droplet, *written.users), seconds=BOUND_SECONDS)


def test_every_clip_is_there_by_the_apps_own_ways(droplet: Droplet, written: Written) -> None:
    assert wrong(droplet, written) == []
    paths = "\n".join(path for _, _, path, *_ in written.written)
    owners = droplet.exec(["bash", "-euc", "xargs stat -Lc '%U:%G %a %h' | sort | uniq -c"], stdin=paths.encode()).stdout
    assert owners.split() == [b"200", b"giggles:giggles", b"640", b"1"]


def test_nothing_is_stored_twice_or_left_over(droplet: Droplet, written: Written) -> None:
    stored = droplet.shell(f"find {UPLOADS}/vaults -type f -path '*/clips/*.wav' -printf '%f\\n'").split()
    assert set(stored) >= {name for _, name, *_ in written.written}
    left = f"find {UPLOADS} -mindepth 2 '(' -name '.copying-*' -o -name '.adopting-*' ')' ; find {UPLOADS}/.lobby -mindepth 1"
    droplet.wait_for("the lobby to be tidy", lambda: droplet.shell(left) == "", seconds=BOUND_SECONDS)
    assert droplet.shell(f"find {UPLOADS}/clips -mindepth 1 -type d") == "", "a folder was not adopted"


def test_an_operator_sees_each_user(droplet: Droplet, written: Written) -> None:
    shown = ask(droplet, "vaults").returned
    assert shown["mode"] == "encrypted"
    assert shown["reason"] == ""
    assert set(shown["users"]) >= set(written.users)
    for user in written.users:
        one = shown["users"][user]
        assert (one["state"], one["files"], one["bytes"]) == ("unlocked", 4, 4 * 32_044)


def test_all_folders_are_encrypted_and_each_user_has_a_key_of_its_own(droplet: Droplet, written: Written) -> None:
    found = library(droplet, _FOLDERS)
    keys = found["folders"]
    plain = {folder for folder, key in keys.items() if not key}
    assert plain == {".", "vaults", ".lobby", "lost+found"} & set(keys)
    assert found["closed"], "the root takes new entries"
    assert len({keys["clips"], keys["audio"], keys["temp"]}) == 1
    ids = clips.vault_ids(droplet, *written.users)
    own = [keys[f"vaults/{vault}"] for vault in ids.values()]
    assert len(set(own)) == 50
    assert keys["clips"] not in own
    for vault in ids.values():
        assert keys[f"vaults/{vault}/clips"] == keys[f"vaults/{vault}"]
    assert set(library(droplet, _STATUS, *own)) == {"PRESENT"}


def test_the_app_can_make_nothing_beside_the_encrypted_folders(droplet: Droplet) -> None:
    tries = [
        f"{make} {UPLOADS}/{path}" for path in ("new", ".new", "vaults/new", ".lobby/new", "lost+found/new")
        for make in ("mkdir", "touch", "ln -s /tmp")
    ]  # fmt: skip
    tries += [f"mv {UPLOADS}/{name} {UPLOADS}/moved" for name in ("clips", "vaults", "temp")]
    tries += [f"chattr -i {UPLOADS}", f"rmdir {UPLOADS}/temp", f"mv {UPLOADS}/temp {UPLOADS}/clips/temp"]
    script = "".join(f"{one} 2>/dev/null && echo {shlex.quote(one)};" for one in tries)
    possible = droplet.shell(f"runuser -u giggles -- bash -c {shlex.quote(script + 'true')}")
    assert possible == ""


def test_a_thief_of_the_image_finds_neither_clips_nor_users(droplet: Droplet, written: Written) -> None:
    """Mounted and synced; tests/audit scans it unmounted."""
    loose, record = f"{UPLOADS}/clips/thief.wav", "/var/lib/giggles/records/thief"
    user = written.users[0]
    droplet.exec(["bash", "-euc", f"cat | tee {loose} > {record}; chown giggles: {loose}"], stdin=MARKER + user.encode())
    try:
        droplet.shell("sync")
        root = Path(f"/proc/{droplet.info['leader_pid']}/root")
        wanted = [MARKER, *(text.encode() for one in written.users[:10] for text in (one, f"{one}@example.com"))]
        wanted += [name.encode() for _, name, *_ in written.written[:5]]
        assert found_in(root / record.lstrip("/"), wanted) == {MARKER, user.encode()}, "the control is not found, so this shows nothing"
        assert found_in(root / written.written[0][2].lstrip("/"), wanted) == {MARKER}, "the clips do not hold it"
        assert found_in(root / IMAGE.lstrip("/"), wanted) == set()
    finally:
        droplet.shell(f"rm -f {loose} {record}")


def found_in(path: Path, wanted: Sequence[bytes]) -> set[bytes]:
    """Return which byte strings a file holds."""
    done = subprocess.run(
        ["grep", "--text", "--only-matching", "--fixed-strings", *(f"--regexp={os.fsdecode(one)}" for one in wanted), "--", str(path)],
        env={**os.environ, "LC_ALL": "C"}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode < 2, done.stderr
    return set(done.stdout.splitlines())


# --- the lobby's key --------------------------------------------------------------------------------------------------


def renewed_by_command(droplet: Droplet) -> None:
    done = ask(droplet, "renew_lobby")
    assert done.code == 0, done.text


def renewed_by_night(droplet: Droplet) -> None:
    droplet.shell("echo no-users > /var/lib/giggles/sample-nightly-behaviour; systemctl start giggles-nightly.service")
    ran = "systemctl show -p ActiveState,Result --value giggles-vault-lobby.service | tr '\\n' ' '"
    droplet.wait_for("the lobby's new key", lambda: droplet.shell(ran).split() in (["success", "inactive"], ["inactive", "success"]), 90)
    droplet.shell("rm /var/lib/giggles/sample-nightly-behaviour")


def renewed_by_failed_night(droplet: Droplet) -> None:
    droplet.shell("echo fatal > /var/lib/giggles/sample-nightly-behaviour; systemctl start giggles-nightly.service || true")
    droplet.shell("rm /var/lib/giggles/sample-nightly-behaviour; systemctl reset-failed giggles-nightly.service")


@pytest.mark.parametrize("renewed", [renewed_by_command, renewed_by_night, renewed_by_failed_night])
def test_the_lobbys_key_is_replaced_while_clips_are_stored(droplet: Droplet, written: Written, renewed: Any) -> None:
    before, linked = folders(droplet), links(droplet)
    users, known = new_users(6), written.users[:4]
    began = time.monotonic()
    with storing(droplet, users) as load:
        time.sleep(1)
        renewed(droplet)
        droplet.wait_for("the new key of the lobby", lambda: folders(droplet)["clips"] != before["clips"], seconds=90)
    print(f"{len(load.written)} clips of {len(users)} new users stored meanwhile, {time.monotonic() - began:.1f} s")
    try:
        after = folders(droplet)
        assert load.failed == []
        assert load.unanswered == 0
        assert len(load.written) > 20
        assert len({after[kind] for kind in clips_kinds()}) == 1
        keys = before["clips"], after["clips"]
        droplet.wait_for("the old key to be gone", lambda: library(droplet, _STATUS, *keys) == ["ABSENT", "PRESENT"], seconds=120)
        droplet.wait_for("the new users to be adopted", lambda: clips.adopted(droplet, *users), seconds=BOUND_SECONDS)
        assert set(linked.splitlines()) <= set(links(droplet).splitlines())
        assert {folder: key for folder, key in before.items() if folder.startswith("vaults/")}.items() <= after.items()
        assert wrong(droplet, load) == []
        assert wrong(droplet, written.without(*set(written.users) - set(known))) == []
    finally:
        clips.forgotten(droplet, users)


def clips_kinds() -> tuple[str, ...]:
    return ("clips", "audio", "temp")


def test_a_held_file_keeps_the_old_key_only_until_it_is_closed(droplet: Droplet) -> None:
    old = folders(droplet)["clips"]
    held = f"{UPLOADS}/temp/held"
    droplet.shell(f"runuser -u giggles -- touch {held}; exec 9>> {held}; (sleep 90 & echo $! > /run/holder.pid) >/dev/null 2>&1")
    try:
        asked = ask(droplet, "renew_lobby")
        assert asked.code != 0
        paragraph(asked.text, "old key", "[Nn]othing is lost")
    finally:
        droplet.shell("kill $(cat /run/holder.pid); rm /run/holder.pid")
    asked = ask(droplet, "renew_lobby")
    assert asked.code == 0, asked.text
    assert library(droplet, _STATUS, old) == ["ABSENT"]
    assert droplet.shell(f"ls {held}; rm {held}").strip() == held


# --- volume and keys ----------------------------------------------------------------------------------------------------


def test_new_keys_open_everything_after_the_volume_was_mounted_anew(droplet: Droplet, written: Written) -> None:
    ring = droplet.shell(f"readlink {KEYS}/ring")
    asked = ask(droplet, "rekey")
    assert asked.code == 0, asked.text
    assert asked.returned["vaults"] >= 50
    assert droplet.shell(f"readlink {KEYS}/ring") != ring
    assert droplet.shell(f"ls -d {KEYS}/ring.*").split() == [f"{KEYS}/{droplet.shell(f'readlink {KEYS}/ring').strip()}"]
    with under_load(droplet) as load:
        # A request may have the socket start the app before the volume is back; then the gate sends it to wait.
        mount = "var-lib-giggles-uploads.mount"
        droplet.shell(f"systemctl stop giggles.service; systemctl restart {mount}; systemctl start --no-block giggles.service")
        droplet.wait_for("the app after the volume came back", droplet.healthy, seconds=60)
    print(f"{load.answers.total()} requests, the slowest {load.slowest:.1f} s")
    assert load.lost == {}
    assert wrong(droplet, written) == []
    droplet.wait_for("adoption to run again", lambda: droplet.shell("systemctl is-active giggles-vault-adopt || true").strip() == "active")


def test_without_its_keys_the_app_waits_and_writes_nothing_in_the_clear(droplet: Droplet, written: Written) -> None:
    droplet.shell(
        f"mv {KEYS}/ring {KEYS}/ring.away; systemctl stop giggles.service giggles-vault-adopt giggles-vault-unlock; "
        "systemctl stop var-lib-giggles-uploads.mount; systemctl start --no-block giggles.service"
    )
    try:
        journal = "journalctl -u giggles-vault-unlock -n 20 -o cat --no-pager"
        droplet.wait_for("the keys to be missed", lambda: f"There are no keys in {KEYS}" in droplet.shell(journal), seconds=60)
        # Mounted and locked, then not mounted at all.
        for away in ("true", f"umount {UPLOADS}"):
            droplet.shell(away)
            gate = droplet.exec(["runuser", "-u", "giggles", "--", OPEN], check=False)
            assert gate.returncode != 0
            paragraph(gate.stderr.decode(), "app waits", "systemctl status .*giggles-vault-unlock", "salt-call state.apply vault")
            assert app_pid(droplet) == "0"
            assert droplet.exec(["runuser", "-u", "giggles", "--", "touch", f"{UPLOADS}/clips/clear"], check=False).returncode != 0
        assert droplet.shell(f"findmnt {UPLOADS} || ls -A {UPLOADS}") == "", "something lies below where the volume is mounted"
        told = droplet.apply("vault")
        assert told.code == 2
        (comment,) = [comment for comment in told.failed.values() if "requisite" not in comment]
        paragraph(comment, f"{KEYS}/ring is gone")
        assert app_pid(droplet) == "0"
    finally:
        droplet.shell(f"mv {KEYS}/ring.away {KEYS}/ring")
    droplet.wait_for("the app to come up by itself", droplet.healthy, seconds=60)
    assert wrong(droplet, written) == []
    droplet.wait_for("adoption to run again", lambda: droplet.shell("systemctl is-active giggles-vault-adopt || true").strip() == "active")


def app_pid(droplet: Droplet) -> str:
    return droplet.shell("systemctl show -p MainPID --value giggles.service").strip()


def test_a_full_volume_refuses_clips_and_still_plays_them(droplet: Droplet, written: Written) -> None:
    user = new_users(1)[0]
    try:
        # What root fills, the app could not even have a block of.
        droplet.shell(f"cat /dev/zero > {UPLOADS}/temp/filler 2>/dev/null || true; systemctl restart giggles.service")
        droplet.wait_for("the app on a full volume", droplet.healthy, seconds=60)
        some = written.without(*written.users[5:])
        assert wrong(droplet, some) == []
        refused = clips.store(droplet, [user], clips=3, size=64_000, adopted=False)
        assert [failure[1:3] for failure in refused.failed] == [["POST", 500]] * 3
    finally:
        droplet.shell(f"rm -f {UPLOADS}/temp/filler")
    try:
        stored = clips.store(droplet, [user], clips=1)
        assert stored.failed == []
        assert wrong(droplet, stored) == []
        # What could not be written whole was never a clip, and no row names it.
        droplet.shell(f"find {UPLOADS}/clips/{user}/ -type f -size -64000c -delete")
    finally:
        clips.forgotten(droplet, [user])


def test_everything_is_unlocked_before_the_app_serves_after_a_restart(droplet: Droplet, written: Written) -> None:
    boot = droplet.shell("cat /proc/sys/kernel/random/boot_id")
    began = time.monotonic()
    done = droplet.driver("restart", check=False)
    vars(droplet).pop("info", None)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    droplet.wait_for("the app after the restart", droplet.healthy, seconds=120)
    print(f"the app answered {time.monotonic() - began:.1f} s after the restart began")
    assert droplet.shell("cat /proc/sys/kernel/random/boot_id") != boot

    def when(moment: str, unit: str) -> int:
        return int(droplet.shell(f"systemctl show -p {moment} --value {unit}"))

    unlocked = when("ExecMainExitTimestampMonotonic", "giggles-vault-unlock.service")
    assert 0 < unlocked <= when("ExecMainStartTimestampMonotonic", "giggles.service")
    assert when("ActiveEnterTimestampMonotonic", "var-lib-giggles-uploads.mount") <= unlocked
    print(f"keys given to the kernel in {(unlocked - when('ExecMainStartTimestampMonotonic', 'giggles-vault-unlock.service')) / 1e6:.2f} s")
    assert wrong(droplet, written) == []
    assert set(library(droplet, _STATUS, *{key for key in folders(droplet).values() if key})) == {"PRESENT"}
    outcome = droplet.converge()
    assert outcome.changed == {}
    new = clips.store(droplet, new_users(2), clips=2)
    clips.forgotten(droplet, new.users)
    assert new.failed == []
    droplet.wait_for("the new users to be adopted", lambda: clips.adopted(droplet, *new.users), seconds=BOUND_SECONDS)


# --- drift ------------------------------------------------------------------------------------------------------------

UNITS = "/etc/systemd/system"
ONE = f"one=$(ls {UPLOADS}/vaults | head -n 1); vault={UPLOADS}/vaults/$one; clip=$(ls $vault/clips | head -n 1); "

CHANGED = [
    Mutation(
        "adoption masked by hand",
        f"systemctl -q stop giggles-vault-adopt; ln -sfn /dev/null {UNITS}/giggles-vault-adopt.service; systemctl daemon-reload",
        "systemctl -q is-active giggles-vault-adopt",
        "giggles-vault-adopt.service-installed",
        "@@ -0,0 +1",
    ),
    Mutation(
        "unlocking at boot disabled",
        "systemctl -q disable giggles-vault-unlock",
        "systemctl -q is-enabled giggles-vault-unlock",
        "vault-unlocked-at-boot",
        "giggles-vault-unlock.service",
    ),
    stopped("the lobby's timer stopped", "giggles-vault-lobby.timer", "vault-timers-run"),
    Mutation(
        "the sweep's timer edited",
        f"sed -i s/Sun/Mon/ {UNITS}/giggles-vault-sweep.timer; systemctl daemon-reload",
        "systemctl show -p TimersCalendar --value giggles-vault-sweep.timer | grep -q Sun",
        "giggles-vault-sweep.timer-installed",
        "OnCalendar=Mon",
    ),
    Mutation(
        "the mount's options edited",
        f"sed -i s/,noexec// {UNITS}/var-lib-giggles-uploads.mount; systemctl daemon-reload",
        f"grep -q noexec {UNITS}/var-lib-giggles-uploads.mount",
        "var-lib-giggles-uploads.mount-installed",
        "noexec",
    ),
    Mutation(
        "the mount made without them",
        f"mount -o remount,exec,suid,dev {UPLOADS}",
        f"findmnt -no OPTIONS {UPLOADS} | grep noexec | grep nosuid | grep -q nodev",
        "vault-ready",
        "noexec",
    ),
    Mutation(
        "a drop-in for unlocking",
        f"mkdir {UNITS}/giggles-vault-unlock.service.d; printf '[Service]\\nExecStart=\\n' > {UNITS}/giggles-vault-unlock.service.d/o.conf",
        gone(f"{UNITS}/giggles-vault-unlock.service.d/o.conf"),
        "vault-volume-units-unaltered",
        "giggles-vault-unlock.service.d",
    ),
    Mutation(
        "a vault opened to everybody",
        f"{ONE} chmod 0777 $vault; chmod 0755 $vault/clips",
        f'{ONE} test "$(stat -c %U:%G:%a $vault $vault/clips | xargs)" = "root:giggles:750 giggles:giggles:750"',
        "vaults-private",
        "777",
    ),
    Mutation(
        "a clip given to somebody else",
        f'{ONE} chown nobody "$vault/clips/$clip"; chmod 0644 "$vault/clips/$clip"',
        f'{ONE} test "$(stat -c %U:%a "$vault/clips/$clip")" = giggles:640',
        "vaults-private",
        "/clips/",
    ),
    Mutation(
        "the folder of all vaults opened",
        f"chmod 0755 {UPLOADS}/vaults",
        has("root:giggles 750", f"{UPLOADS}/vaults"),
        "vault-ready",
        "vaults put right",
    ),
    Mutation(
        "the lobby opened",
        f"chown root {UPLOADS}/clips; chmod 0777 {UPLOADS}/clips",
        has("giggles:giggles 750", f"{UPLOADS}/clips"),
        f"folder-{UPLOADS}/clips",
        "777",
    ),
    Mutation(
        "the root opened",
        f"chattr -i {UPLOADS}",
        f"lsattr -d {UPLOADS} | cut -d' ' -f1 | grep -q i",
        "vault-ready",
        "chattr +i",
    ),
    Mutation(
        "what clips are kept as edited",
        'echo \'{"mode": "plain"}\' > /etc/giggles/vault.json',
        "grep -q encrypted /etc/giggles/vault.json",
        "vault-formed",
        "plain",
    ),
    Mutation("the ledger opened", f"chmod 0755 {LEDGER}", has("root:root 700", LEDGER), "vault-ledger-private", "0700"),
    Mutation("the keys opened", f"chmod 0755 {KEYS}", has("root:root 700", KEYS), "keys-private", "0700"),
    Mutation(
        "the gate before the app edited",
        f"sed -i '2i exit 0' {OPEN}",
        f"! sed -n 2p {OPEN} | grep -q 'exit 0'",
        "vault-is-open-installed",
        "exit 0",
    ),
]

GONE = [
    Mutation(
        "the volume unmounted while the app is stopped",
        f"systemctl stop giggles.service giggles-nightly.service giggles-vault-adopt; umount {UPLOADS}",
        f"findmnt {UPLOADS} && ls {UPLOADS}/clips && systemctl -q is-active giggles giggles-vault-adopt",
        "vault-mounted",
        "var-lib-giggles-uploads.mount",
    ),
    Mutation("the mount's unit deleted", f"rm {UNITS}/var-lib-giggles-uploads.mount; systemctl daemon-reload",
             f"test -s {UNITS}/var-lib-giggles-uploads.mount", "var-lib-giggles-uploads.mount-installed", "New file"),
    Mutation("what clips are kept as deleted", "rm /etc/giggles/vault.json", "grep -q encrypted /etc/giggles/vault.json",
             "vault-formed", "encrypted"),
    Mutation("the vault's program deleted", "rm /usr/local/lib/giggles/vault", "test -x /usr/local/lib/giggles/vault",
             "vault-installed", "New file"),
]  # fmt: skip


@pytest.fixture(scope="module")
def changed(droplet: Droplet, written: Written) -> Any:
    return repair(droplet, CHANGED)


@pytest.fixture(scope="module")
def gone_again(droplet: Droplet, changed: Any) -> Any:
    return repair(droplet, GONE)


@pytest.mark.parametrize("one", CHANGED, ids=[one.name.replace(" ", "-") for one in CHANGED])
def test_what_was_changed_on_the_volume_is_put_back_and_named(changed: Any, one: Mutation) -> None:
    judge(one, changed)


@pytest.mark.parametrize("one", GONE, ids=[one.name.replace(" ", "-") for one in GONE])
def test_what_was_taken_from_the_volume_comes_back_and_is_named(gone_again: Any, one: Mutation) -> None:
    judge(one, gone_again)


def test_one_highstate_repairs_the_volume_and_no_clip_is_lost(droplet: Droplet, written: Written, changed: Any, gone_again: Any) -> None:
    for what in (changed, gone_again):
        assert what.outcome.code == 0, what.outcome.failed or what.outcome.text
        assert what.again.code == 0, what.again.failed or what.again.text
        assert what.again.changed == {}
    droplet.wait_for("the app", droplet.healthy, seconds=60)
    assert wrong(droplet, written) == []


def test_what_lies_unencrypted_beside_the_vaults_is_for_somebody_to_decide(droplet: Droplet) -> None:
    foreign = f"{UPLOADS}/foreign"
    droplet.shell(f"chattr -i {UPLOADS}; mkdir {foreign}; echo clear > {foreign}/clip.wav; chattr +i {UPLOADS}")
    try:
        looked = droplet.apply("vault", "test=True")
        told = droplet.apply()
        assert told.code == 2
        assert set(told.failed) == {"vaults-private"}
        for outcome in (looked, told):
            paragraph(outcome.failed["vaults-private"], f"{foreign}, which is not encrypted", "left alone", "remove")
        assert droplet.shell(f"cat {foreign}/clip.wav") == "clear\n"
    finally:
        droplet.shell(f"chattr -i {UPLOADS}; rm -rf {foreign}; chattr +i {UPLOADS}")
    assert droplet.converge().changed == {}


# --- what somebody may choose -------------------------------------------------------------------------------------------


@pytest.fixture
def devices(droplet: Droplet) -> Iterator[dict[str, str]]:
    """Return block devices by what lies on them."""
    made = {
        "ext4": "mkfs.ext4 -q $file",
        "random": "head -c 65536 /dev/urandom | dd of=$file conv=notrunc bs=1M seek=1 status=none",
        "empty": "true",
    }
    found = {}
    for name, fill in made.items():
        file = f"/root/device-{name}"
        found[name] = droplet.shell(f"file={file}; truncate -s 64M $file; {fill}; losetup --find --show $file").strip()
    yield found
    droplet.shell("".join(f"losetup -d {device}; rm /root/device-{name};" for name, device in found.items()))


def test_a_wrong_choice_is_refused_and_harms_nothing(droplet: Droplet, written: Written, devices: dict[str, str]) -> None:
    wrong_choices: dict[str, tuple[dict[str, Any], str]] = {
        "smaller": ({"size_mb": 512}, "never shrunk.*nothing was changed.*1024 or more"),
        "no room": ({"size_mb": 16_000_000}, "MB free.*Nothing was changed.*size_mb"),
        "missing": ({"device": "/dev/disk/by-id/none"}, "names /dev/disk/by-id/none, which is not there.*ls /dev/disk/by-id"),
        "no device": ({"device": "/dev/null"}, "no block device"),
        "with ext4": ({"device": devices["ext4"]}, "holds data.*never formatted; nothing was changed"),
        "with bytes": ({"device": devices["random"]}, "holds data.*never formatted; nothing was changed"),
        "empty": ({"device": devices["empty"]}, f"lie on {IMAGE}.*nothing was changed"),
    }  # fmt: skip
    kept = f"/etc/giggles/vault.json {UNITS}/var-lib-giggles-uploads.mount {UNITS}/giggles-vault-*"
    sums = f"sha256sum {' '.join(devices.values())} {kept}; stat -c '%n %s %i' {IMAGE}"
    before = droplet.shell(sums)
    with under_load(droplet, clients=1) as load:
        for name, (choice, words) in wrong_choices.items():
            with chosen(droplet, lambda top, choice=choice: top["vault"].update(choice)):
                looked, told = droplet.apply("vault", "test=True"), droplet.apply("vault")
            print(f"--- {name}")
            assert told.code == 2, told.text
            for outcome in (looked, told):
                paragraph(outcome.failed["vault-formed"], words)
    assert droplet.shell(sums) == before
    assert load.lost == {}
    assert wrong(droplet, written.without(*written.users[5:])) == []
    assert droplet.converge().changed == {}


# --- clips from before the volume ---------------------------------------------------------------------------------------

# Applies, and kills the apply (and what it has started) as soon as a condition holds; prints whether it came to that.
_KILLED = """
import os, signal, subprocess, sys, time
begun = subprocess.Popen(["salt-call", "--local", "--log-level=error", "state.apply", "vault"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
found = False
while not found and begun.poll() is None:
    found = subprocess.run(["sh", "-c", sys.argv[1]], stdin=subprocess.DEVNULL).returncode == 0
if found:
    if sys.argv[2]:
        subprocess.run(["systemctl", "kill", "--signal=KILL", sys.argv[2]])
    os.killpg(begun.pid, signal.SIGKILL)
begun.wait(300)
print("killed" if found else "ended")
"""
_SWITCH = "giggles-vault-switch"
_SWITCHING = f"systemctl show -p ActiveState --value {_SWITCH} | grep -qx activating"
MOMENTS = {
    "while clips are copied": (f"test $(ls {UPLOADS}.new/vaults 2>/dev/null | wc -l) -gt 3", ""),
    "while the app is stopped": (f"{_SWITCHING} && ! systemctl -q is-active giggles.service", _SWITCH),
    "after the folders changed places": (f"test -d {UPLOADS}.before", _SWITCH),
    "while the old clips are overwritten": (f"test -d {UPLOADS}.before && ! test -d {UPLOADS}.before/audio", ""),
}


@pytest.fixture
def plain(droplet: Droplet) -> Iterator[Written]:
    """Turn the droplet into one of before: no volume, no keys, and clips that the app has stored in plain folders."""
    units = "giggles-vault-adopt giggles-vault-lobby.timer giggles-vault-sweep.timer giggles-vault-unlock var-lib-giggles-uploads.mount"
    users = new_users(8)
    droplet.shell(
        f"systemctl stop giggles.service giggles-nightly.service; systemctl -q disable --now {units}; "
        f"rm -rf {IMAGE} {UPLOADS} /etc/giggles/vault.json {KEYS} {LEDGER} {UNITS}/*giggles-vault-* {UNITS}/var-lib-giggles-uploads.mount; "
        "systemctl daemon-reload"
    )
    with chosen(droplet, lambda top: top.update(roles=["hardening", "app", "web", "nightly"])):
        outcome = droplet.apply()
        assert outcome.code == 0, outcome.failed
    assert droplet.shell(f"findmnt {UPLOADS} || stat -c %U:%a {UPLOADS}").strip() == "giggles:750"
    done = clips.store(droplet, users, clips=6, size=64_000, marker=MARKER, adopted=False)
    assert done.failed == []
    more = {f"clips/legacy-{number}.wav": os.urandom(30_000).hex() for number in range(4)}
    more |= {f"audio/{users[0]}/20260101_000000-20260101_003000.ogg": os.urandom(900).hex(), "temp/scratch": "half done"}
    for name, content in more.items():
        path = f"{UPLOADS}/{name}"
        droplet.exec(
            ["bash", "-euc", f"mkdir -p $(dirname {path}); cat > {path}; chown -R giggles: $(dirname {path})"], stdin=content.encode()
        )
    yield done
    clips.forgotten(droplet, users)


def fingerprint(droplet: Droplet) -> dict[str, str]:
    """Return the hash of every file below the upload folder, by the path that the app has it by."""
    hashes = droplet.shell(f"cd {UPLOADS}; find -L clips audio temp -type f -print0 | sort -z | xargs -0 -r sha256sum")
    return {path: digest for digest, path in (line.split("  ", 1) for line in hashes.splitlines())}


def test_clips_from_before_the_volume_move_into_it_while_the_app_goes_on(droplet: Droplet, plain: Written) -> None:
    before = fingerprint(droplet)
    assert len(before) >= 54
    new = new_users(2)
    with under_load(droplet, clients=2) as load, storing(droplet, [*new, *plain.users[:2]]) as more:
        for name, (condition, unit) in MOMENTS.items():
            ended = droplet.exec(["/usr/bin/python3", "-c", _KILLED, condition, unit]).stdout.decode().strip()
            print(f"killed {name}: {ended}")
            where = droplet.shell(f"findmnt -no SOURCE {UPLOADS} || echo folder; ls -d {UPLOADS}.* 2>/dev/null || true").split()
            print(f"then the clips lay in {where}")
            droplet.wait_for("the app", droplet.healthy, seconds=60)
            assert {path: digest for path, digest in fingerprint(droplet).items() if path in before} == before
        droplet.shell(f"systemctl reset-failed {_SWITCH}")
        outcome = droplet.apply()
        assert outcome.code == 0, outcome.failed or outcome.text
    try:
        print(f"{load.answers.total()} requests, the slowest {load.slowest:.1f} s; {len(more.written)} clips stored meanwhile")
        print(f"{more.unanswered} connections that the app had taken when it was stopped were asked again")
        assert load.lost == {}
        assert more.failed == []
        assert more.unanswered <= len(MOMENTS)
        assert wrong(droplet, more) == []
        assert wrong(droplet, plain) == []
        after = fingerprint(droplet)
        assert {path: digest for path, digest in after.items() if path in before} == before
        # Nothing plain is left, on the root disk or in the volume.
        assert droplet.shell(f"ls -d {UPLOADS}.* 2>/dev/null || true") == ""
        assert {folder for folder, key in folders(droplet).items() if not key} <= {".", "vaults", ".lobby", "lost+found"}
        droplet.wait_for("the new users to be adopted", lambda: clips.adopted(droplet, *plain.users, *new), seconds=BOUND_SECONDS)
        again = droplet.converge()
        assert again.changed == {}
        droplet.shell("sync")
        assert found_in(Path(f"/proc/{droplet.info['leader_pid']}/root{IMAGE}"), [MARKER]) == set()
    finally:
        clips.forgotten(droplet, new)
