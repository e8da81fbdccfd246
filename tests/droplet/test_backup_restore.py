"""A droplet is lost, and another one goes on from bucket and recovery kit: with all clips as they were, without who was erased.

It ends with another droplet than the one it began with, so nothing else may run after it on the same trial. It needs about
five minutes, most of them for a droplet that is set up from nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gigglekit.vault import fscrypt
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.places import Places
from gigglekit.vault.share import ShareMissingError

from . import clips, leaking
from .clips import IMAGE, KEYS, UPLOADS, Written, ask, library, new_users, rows, sql, wrong
from .conftest import Droplet
from .test_backup import KIT, versions
from .test_bad_input import paragraph
from .test_shred import forms

MARKER = f"people laughing in the night before the droplet was lost: {uuid.uuid4()}".encode()
USERS, BY_THE_APP, IN_BULK = 50, 10, 90
ANSWERS, PILLAR = "/root/answers.yaml", "/etc/giggles/pillar/droplet.sls"
LOOK = "/var/lib/restored"

# As the app's account: clips of all sizes, named so that SQL can name them too. Prints JSON: user, name, path, SHA-256.
_BULK = r"""
import hashlib, json, os, random, sys
order = json.load(sys.stdin)
# As giggles.service has it.
os.umask(0o027)
chance = random.Random(order["seed"])
marker = bytes.fromhex(order["marker"])
done = []
for user in order["users"]:
    for number in range(*order["numbers"]):
        name = f"bulk-{number}.wav"
        path = f"{order['uploads']}/clips/{user}/{name}"
        content = marker + chance.randbytes(int(1024 * 128 ** chance.random()))
        with open(path, "wb") as file:
            file.write(content)
        done.append([user, name, path, hashlib.sha256(content).hexdigest(), ""])
json.dump(done, sys.stdout)
"""
# Prints JSON: what everything that users have is: its hash, size, mode, owner and time, by the path that the app has it by.
_STATE = r"""
import grp, hashlib, json, os, pwd, sys
found = {}
for kind in ("clips", "audio"):
    top = os.path.join(sys.argv[1], kind)
    for place, folders, names in os.walk(top, followlinks=True):
        for name in [*names, *folders]:
            path = os.path.join(place, name)
            # What lies beside users' folders is nobody's, and of somebody who was erased before a link is left.
            if place == top and not os.path.isdir(path):
                continue
            status = os.stat(path)
            owner = pwd.getpwuid(status.st_uid).pw_name + ":" + grp.getgrgid(status.st_gid).gr_name
            what = [oct(status.st_mode), owner]
            if name in names:
                with open(path, "rb") as file:
                    what += [status.st_size, status.st_mtime_ns, hashlib.sha256(file.read()).hexdigest()]
            found[os.path.relpath(path, sys.argv[1])] = what
json.dump(found, sys.stdout)
"""
_ROWS = """
INSERT INTO public.laughter_detections (user_id, audio_segment_id, timestamp, probability, clip_path)
SELECT s.user_id, s.id, now(), 0.5, '{uploads}/clips/' || s.user_id || '/bulk-' || n || '.wav'
  FROM (SELECT DISTINCT ON (user_id) user_id, id FROM public.audio_segments WHERE user_id = ANY (string_to_array(:'users', ',')::uuid[])) s,
       generate_series({first}, {last}) n
"""
_COUNTS = """
SELECT json_object_agg(name, number) FROM (
  SELECT 'auth.users' AS name, count(*) AS number FROM auth.users UNION ALL SELECT 'users', count(*) FROM public.users
  UNION ALL SELECT 'segments', count(*) FROM public.audio_segments UNION ALL SELECT 'clips', count(*) FROM public.laughter_detections
  UNION ALL SELECT 'hash', ('x' || substr(md5(string_agg(d::text, '' ORDER BY d.id)), 1, 8))::bit(32)::bigint
    FROM public.laughter_detections d WHERE user_id::text <> ALL (string_to_array(:'without', ','))) counted
"""
_SHARE = """
import json
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.places import Places
places = Places()
share = Keyring(places).share()
print(json.dumps([share.id, (places.memory / share.id).read_bytes().hex()]))
"""


@dataclasses.dataclass
class Story:
    """What there was on the droplet that was lost.

    Arguments:
        kit: the recovery kit.
        pillar: droplet.sls, from the password manager.
        written: what users stored by the app, and what is there beside.
        erased: who was erased after everything was saved.
        vaults: vault ids of all.
        past, present: what everybody's files were at the first snapshot, and when the droplet was lost.
        first, second: the names of the snapshots.
        counts: of rows, and a hash of those of clips.
        receipt: the number of the last receipt.
    """

    kit: str = ""
    pillar: str = ""
    written: Written = dataclasses.field(default_factory=Written)
    erased: str = ""
    vaults: dict[str, str] = dataclasses.field(default_factory=dict)
    past: dict[str, Any] = dataclasses.field(default_factory=dict)
    present: dict[str, Any] = dataclasses.field(default_factory=dict)
    first: str = ""
    second: str = ""
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    receipt: int = 0

    @staticmethod
    def users(state: dict[str, Any]) -> set[str]:
        """Return who has files in a state; a trial that was used before has more users than this story."""
        return {path.split("/")[1] for path, what in state.items() if len(what) > 2}

    def of(self, state: dict[str, Any], *users: str) -> dict[str, Any]:
        """Return what of a state is these users'."""
        return {path: what for path, what in state.items() if path.split("/")[1] in users}


def bulk(droplet: Droplet, users: list[str], first: int, last: int, seed: int) -> list[list[str]]:
    """Have these users store clips numbered so, with rows."""
    order = {"users": users, "numbers": [first, last + 1], "seed": seed, "marker": MARKER.hex(), "uploads": UPLOADS}
    command = ["runuser", "-u", "giggles", "--", "/usr/bin/python3", "-c", _BULK]
    done = json.loads(droplet.exec(command, stdin=json.dumps(order).encode()).stdout)
    sql(droplet, _ROWS.format(uploads=UPLOADS, first=first, last=last), users=",".join(users))
    return list(done)


def state(droplet: Droplet, folder: str = UPLOADS) -> dict[str, Any]:
    return dict(json.loads(droplet.exec(["/usr/bin/python3", "-c", _STATE, folder]).stdout))


def counts(droplet: Droplet, without: str) -> dict[str, int]:
    return dict(json.loads(sql(droplet, _COUNTS, without=without)))


@pytest.fixture(scope="module")
def story(droplet: Droplet) -> Story:
    """A droplet with a backup of what 50 users have, twice, and one who is erased after that."""
    told = Story()
    droplet.converge()
    made = ask(droplet, "recovery_kit", "rotate=True")
    assert made.code == 0, made.text
    told.kit, told.pillar = made.returned, droplet.exec(["cat", PILLAR]).stdout.decode()
    users = new_users(USERS)
    told.written = clips.store(droplet, users, clips=BY_THE_APP, size=16_000, marker=MARKER)
    assert told.written.failed == []
    told.written.written += bulk(droplet, users, 1, IN_BULK, seed=1)
    assert len(told.written.written) == USERS * (BY_THE_APP + IN_BULK) == 5000
    told.past = state(droplet)
    # As it is every night. The first one prunes too; of one day only the newest snapshot is kept when that comes again, in a week.
    droplet.shell("systemctl start giggles-backup.service")
    told.first = ask(droplet, "snapshots").returned[-1]["snapshot"]

    # Clips go, come, and change.
    droplet.shell(f"for user in {' '.join(users[:10])}; do rm {UPLOADS}/clips/$user/bulk-{{1,2,3}}.wav; done")
    gone = {f"{UPLOADS}/clips/{user}/bulk-{number}.wav" for user in users[:10] for number in (1, 2, 3)}
    sql(droplet, "DELETE FROM public.laughter_detections WHERE clip_path = ANY (string_to_array(:'paths', ','))", paths=",".join(gone))
    more = [*bulk(droplet, users[5:15], IN_BULK + 1, IN_BULK + 5, seed=2), *bulk(droplet, users[20:25], 50, 52, seed=3)]
    gone |= {path for _, _, path, *_ in more}
    told.written.written = [clip for clip in told.written.written if clip[2] not in gone] + more
    told.present = state(droplet)
    saved = ask(droplet, "sync")
    assert saved.code == 0, saved.text
    print(f"what changed was saved in {saved.seconds:.1f} s: {saved.returned}")
    told.second = saved.returned["snapshot"]
    assert told.second != told.first
    told.erased, told.vaults = users[7], clips.vault_ids(droplet, *users)
    told.counts = counts(droplet, told.erased)
    erasing = ask(droplet, "shred", f"user_id={told.erased}")
    assert erasing.code == 0, erasing.text
    assert erasing.returned["erased"], erasing.text
    told.receipt = erasing.returned["receipt"]
    told.written = told.written.without(told.erased)
    told.present = {path: what for path, what in told.present.items() if told.erased not in path}
    return told


# --- the disk of the droplet that is lost -------------------------------------------------------------------------------


@dataclasses.dataclass
class Stolen:
    """What a thief finds on the disk of a droplet that was switched off.

    Arguments:
        hits: which secrets and clips lie on it as they are.
        control: the same, of a disk that holds them in the clear.
        refused: what the library says of its keys.
        alone: the names of a user's clips that can be read with the disk alone.
        with_share: and with the bucket's share besides.
    """

    hits: set[str]
    control: set[str]
    refused: str
    alone: list[str]
    with_share: list[str]


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """Mount an image, without ever writing to it."""
    with tempfile.TemporaryDirectory(prefix="giggles-stolen-") as place:
        subprocess.run(["mount", "-o", "loop,ro,noload", image, place], check=True, timeout=60)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True, timeout=60)


def raw_scan(root: Path, wanted: leaking.Secrets) -> set[str]:
    """Return what lies below a folder as it is, disk images included, and where."""
    found = leaking._files_with(root, wanted, None)
    return {f"{name} in /{path.relative_to(root)}" for path, content in found for name in wanted.found_in(content)}


@pytest.fixture(scope="module")
def stolen(droplet: Droplet, story: Story) -> Stolen:
    """Switch the droplet off, and look at its disk from outside."""
    user = story.written.users[0]
    share, secret = library(droplet, _SHARE)
    assert versions(droplet, f"keys/shares/{share}") == [f"keys/shares/{share}"]
    kept = droplet.exec(["cat", f"{KEYS}/ring/key-encryption-key"]).stdout
    droplet.exec(["systemctl", "poweroff"], check=False)
    droplet.wait_for("the droplet to be off", lambda: json.loads(droplet.driver("info", "--json").stdout)["leader_pid"] is None)
    vars(droplet).pop("info", None)
    disk = Path(droplet.info["rootfs"])
    wanted = forms({"a clip": MARKER, "the bucket's share": bytes.fromhex(secret), "the droplet's share": kept, "an id": user.encode()})
    hits = raw_scan(disk, wanted)
    plain = disk / "root/in-the-clear"
    with tempfile.TemporaryDirectory() as memory, mounted(disk / IMAGE.lstrip("/")) as volume:
        places = Places(uploads=volume, keys=disk / KEYS.lstrip("/"), memory=Path(memory))
        vault = story.vaults[user]
        folder = volume / "vaults" / vault / "clips"
        alone = sorted(entry.name for entry in folder.parent.iterdir())
        try:
            Keyring(places).root_key(vault)
            refused = ""
        except ShareMissingError as error:
            refused = str(error)
        # What is needed besides, from the bucket.
        (Path(memory) / share).write_bytes(bytes.fromhex(secret))
        root = Keyring(places).root_key(vault)
        assert root is not None
        descriptor = os.open(volume, os.O_RDONLY)
        try:
            identifier = fscrypt.add_key(descriptor, fscrypt_key(root))
            with_share = sorted(entry.name for entry in folder.iterdir())
            plain.write_bytes((folder / "bulk-10.wav").read_bytes() + f" {user} {secret} {kept.hex()}".encode())
            fscrypt.remove_key(descriptor, identifier)
        finally:
            os.close(descriptor)
    control = raw_scan(plain.parent, wanted)
    plain.unlink()
    return Stolen(hits, control, refused, alone, with_share)


def test_the_disk_of_a_droplet_alone_opens_nothing(story: Story, stolen: Stolen) -> None:
    control = {one.split(" in ")[0] for one in stolen.control}
    assert control == {"a clip", "the bucket's share", "the droplet's share", "an id"}, "what is there is not found either"
    assert [one for one in stolen.hits if "the droplet's share" not in one] == []
    paragraph(stolen.refused, "share", "bucket")
    assert "clips" not in stolen.alone
    assert len(stolen.alone) == 2
    assert "bulk-10.wav" in stolen.with_share, "with the bucket's share it opens, so without it something is protected"


# --- another droplet -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def another(droplet: Droplet, story: Story, stolen: Stolen) -> None:
    """Set up another droplet as docs/BACKUP_AND_RESTORE.md says; of the database, only its empty tables are left."""
    sql(droplet, "TRUNCATE auth.users CASCADE")
    assert counts(droplet, "")["users"] == 0
    replaced = droplet.driver("up", "--replace", "--bare", check=False)
    assert replaced.returncode == 0, replaced.stderr.decode(errors="replace")
    vars(droplet).pop("info", None)
    droplet.write(ANSWERS, story.pillar, "0600")
    droplet.exec(["/srv/giggles-salt/bootstrap.sh", "--non-interactive", "--answers", ANSWERS, "--shred-answers"])
    droplet.wait_for("the app", droplet.healthy, seconds=120)
    assert droplet.exec(["test", "-e", ANSWERS], check=False).returncode == 1


@pytest.fixture(scope="module")
def restored(droplet: Droplet, story: Story, another: None) -> dict[str, Any]:
    """Restore database and clips, in the order of the handbook."""
    droplet.write(KIT, story.kit, "0600")
    told = {}
    for what in ("restore_database", "restore"):
        told[what] = ask(droplet, what, f"kit={KIT}")
        assert told[what].code == 0, told[what].text
        print(f"{what}: {told[what].seconds:.1f} s, {told[what].returned}")
    return {what: asked.returned for what, asked in told.items()}


def test_without_its_kit_a_new_droplet_touches_nothing(droplet: Droplet, story: Story, another: None) -> None:
    before = sorted(versions(droplet, "data/", "snapshots/", "ledger/", "keys/users/", "keys/system/"))
    for what in ("sync", "restore", "snapshots", "drill", "restore_database", "verify"):
        asked = ask(droplet, what)
        assert asked.code != 0, what
        paragraph(asked.text, "kit")
    assert sorted(versions(droplet, "data/", "snapshots/", "ledger/", "keys/users/", "keys/system/")) == before
    assert droplet.shell(f"ls {UPLOADS}/vaults {UPLOADS}/clips").split() == [f"{UPLOADS}/clips:", f"{UPLOADS}/vaults:"]


def test_a_past_snapshot_and_one_user_can_be_looked_at_in_a_folder(droplet: Droplet, story: Story, another: None) -> None:
    droplet.write(KIT, story.kit, "0600")
    user = story.written.users[8]
    try:
        asked = ask(droplet, "restore", f"kit={KIT}", f"target={LOOK}", f"snapshot={story.first}")
        assert asked.code == 0, asked.text
        print(f"all of the first snapshot: {asked.seconds:.1f} s, {asked.returned}")
        kept = len(story.users(story.past)) - 1
        assert (asked.returned["erased"], asked.returned["users"]) == (1, kept)
        hashes = {path.removeprefix("./"): digest for path, digest in _hashes(droplet, LOOK).items()}
        wanted = {_elsewhere(path): what[-1] for path, what in story.past.items() if len(what) > 2 and story.erased not in path}
        assert hashes == wanted
        assert droplet.shell(f"stat -c %a:%U {LOOK}/*").split() == ["700:root"] * kept
        droplet.shell(f"rm -r {LOOK}")
        asked = ask(droplet, "restore", f"kit={KIT}", f"target={LOOK}", f"user_id={user}")
        assert asked.code == 0, asked.text
        assert _hashes(droplet, LOOK) == {
            _elsewhere(path): what[-1] for path, what in story.of(story.present, user).items() if len(what) > 2
        }
        asked = ask(droplet, "restore", f"kit={KIT}", f"target={LOOK}", f"user_id={story.erased}")
        assert asked.code != 0
        paragraph(asked.text, "was erased")
    finally:
        droplet.shell(f"rm -rf {LOOK}")
    # Looking has made no droplet of it that goes on with the backup.
    assert ask(droplet, "sync").code != 0


def _elsewhere(path: str) -> str:
    kind, user, name = path.split("/", 2)
    return f"{user}/{kind}/{name}"


def _hashes(droplet: Droplet, folder: str) -> dict[str, str]:
    lines = droplet.shell(f"cd {folder}; find . -type f -print0 | xargs -0 sha256sum").splitlines()
    return {path.removeprefix("./"): digest for digest, path in (line.split("  ", 1) for line in lines)}


def test_everything_is_back_as_it_was(droplet: Droplet, story: Story, restored: dict[str, Any]) -> None:
    done = restored["restore"]
    files = {path: what for path, what in story.present.items() if len(what) > 2}
    assert (done["files"], done["users"], done["erased"], done["problems"]) == (len(files), len(story.users(files)), 1, [])
    found = state(droplet)
    # Everybody has a folder for recordings now.
    assert sorted(path for path in found if not path.startswith("audio/")) == sorted(
        path for path in story.present if not path.startswith("audio/")
    )
    found = {path: what for path, what in found.items() if path in story.present}
    assert {path: (what, story.present[path]) for path, what in found.items() if what != story.present[path]} == {}
    assert clips.vault_ids(droplet, *story.vaults) == story.vaults
    assert clips.adopted(droplet, *{user for user, *_ in story.written.written})
    assert droplet.shell(f"find {UPLOADS}/clips {UPLOADS}/audio -mindepth 1 -maxdepth 1 -type d") == ""


def test_the_database_is_back_without_who_was_erased(droplet: Droplet, story: Story, restored: dict[str, Any]) -> None:
    assert set(rows(droplet, story.erased).values()) == {0}
    found, gone = counts(droplet, story.erased), len([path for path in story.past if story.erased in path])
    assert found["hash"] == story.counts["hash"]
    assert (found["users"], found["auth.users"]) == (story.counts["users"] - 1, story.counts["auth.users"] - 1)
    assert gone > BY_THE_APP
    assert found["clips"] < story.counts["clips"]


def test_the_app_serves_every_clip_to_whom_it_belongs(droplet: Droplet, story: Story, restored: dict[str, Any]) -> None:
    # Signed in as before: the keys of the app came with droplet.sls. Every tenth of those that were not stored by the app.
    some = [clip for clip in story.written.written if clip[4]] + [clip for clip in story.written.written if not clip[4]][::10]
    assert len(some) > 800
    assert wrong(droplet, dataclasses.replace(story.written, written=some)) == []


def test_who_was_erased_stays_so_and_the_receipts_go_on(droplet: Droplet, story: Story, restored: dict[str, Any]) -> None:
    for arguments in ((), (f"kit={KIT}",), (f"snapshot={story.first}",)):
        asked = ask(droplet, "restore", f"user_id={story.erased}", *arguments)
        assert asked.code != 0, arguments
        paragraph(asked.text, "was erased")
    vault = story.vaults[story.erased]
    assert droplet.shell(f"find {UPLOADS} -name '*{vault}*' ! -type l; ls {KEYS}/ring/vaults | grep {vault} || true") == ""
    assert ask(droplet, "verify_receipt").returned["checked"] == story.receipt
    again = ask(droplet, "shred", f"user_id={story.erased}")
    assert (again.returned["confirmed"], again.returned["receipt"]) == (True, story.receipt)


def test_the_new_droplet_goes_on_with_the_backup(droplet: Droplet, story: Story, restored: dict[str, Any]) -> None:
    droplet.shell(f"shred -u {KIT}")
    saved = ask(droplet, "sync")
    assert saved.code == 0, saved.text
    assert (saved.returned["new_files"], saved.returned["packs"], saved.returned["problems"]) == (0, 0, [])
    checked = ask(droplet, "verify", "read_data=5%")
    assert checked.code == 0, checked.text
    droplet.shell("systemctl start giggles-drill.service")
    share, _ = library(droplet, _SHARE)
    assert f"keys/shares/{share}" in versions(droplet, "keys/shares/")
    # Here too a user goes, with the next receipt, and everybody else stays.
    user = story.written.users[3]
    erasing = ask(droplet, "shred", f"user_id={user}")
    assert erasing.code == 0, erasing.text
    assert (erasing.returned["erased"], erasing.returned["receipt"]) == (True, story.receipt + 1)
    assert versions(droplet, f"keys/users/{story.vaults[user]}") == []
    assert ask(droplet, "verify_receipt").returned["checked"] == story.receipt + 1
    after = state(droplet)
    assert [path for path, what in story.present.items() if user not in path and after.get(path) != what] == []
    assert [path for path in after if user in path] == []
    assert droplet.converge().changed == {}
    assert droplet.shell("systemctl list-units --failed --plain --no-legend 'giggles*' '*uploads*'") == ""
