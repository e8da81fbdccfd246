"""What forensic tools, and a thief with the whole disk, find of clips: before and after an erasure, and where nothing protects them.

No droplet is needed: the library works here on disks of its own, one for the clips and one for keys and ledger. Every finding
of nothing has a control beside it, in which the same tool or scan finds something.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gigglekit.crypto import keys
from gigglekit.vault import unlock
from gigglekit.vault.keyring import fscrypt_key
from gigglekit.vault.places import KINDS, PLAIN

from tests.unit.vault_volume import Disk, Droplet, disk

USUAL = ""
OLDER = "^metadata_csum,^64bit"
"""Features of ext4 without which extundelete 0.2.4 reads nothing; ext4magic needs neither."""
TOOLS_FOR = {USUAL: ("photorec", "foremost", "ext4magic"), OLDER: ("photorec", "foremost", "ext4magic", "extundelete")}
# sleuthkit's tsk_recover is left out: it finds no deleted clip in the control either, since ext4 empties the list of blocks
# in the inode of a file that is deleted, and sleuthkit does not look for an older one in the journal.
SIZE, SIZE_OF_KEYS = "64M", "16M"
CLIPS = 20
"""Of each kind, for each user, and half as many again that come later."""
LEAST_HITS_IN_THE_CLEAR = 2000
SECONDS, SAMPLES_PER_SECOND = 4, 16000


def marker(user: str) -> bytes:
    """Return what every KiB of this user's clips holds, and nothing else does."""
    return b"laughing:" + hashlib.sha256(user.encode()).hexdigest()[:16].encode() + b":"


def clip(user: str, number: int) -> bytes:
    """Return a clip as the app keeps it: 4 s of 16-bit mono at 16 kHz, marked."""
    size = SECONDS * SAMPLES_PER_SECOND * 2
    label = marker(user) + b"%04d" % number
    sound = b"".join(label + os.urandom(1024 - len(label)) for _ in range(size // 1024))
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(sound), b"WAVE", b"fmt ", 16, 1, 1, SAMPLES_PER_SECOND,
                       2 * SAMPLES_PER_SECOND, 2, 16, b"data", len(sound))  # fmt: skip
    return head + sound


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Story:
    """A disk that users had clips on, as a thief gets it: unmounted, with everything written.

    Arguments:
        volume: the disk with the clips.
        key_disk: the disk with keys and ledger.
    """

    volume: Disk
    key_disk: Disk | None = None
    users: list[str] = field(default_factory=lambda: [str(uuid.uuid4()) for _ in range(3)])
    clips: dict[str, str] = field(default_factory=dict)
    """User of each clip that was ever written, by its SHA-256."""
    cut: dict[str, str] = field(default_factory=dict)
    """The same without the last 8 bytes, which foremost leaves behind: the size in a RIFF head does not count the first 8."""

    @property
    def erased(self) -> str:
        return self.users[0]

    @property
    def kept(self) -> str:
        return self.users[1]

    def write(self, user: str, numbers: range) -> None:
        """Write clips as the app does."""
        for kind in KINDS:
            folder = self.volume.place / kind / user
            os.makedirs(folder, exist_ok=True)
            for number in numbers:
                content = clip(user, number)
                name = f"laughter-{marker(user)[9:-1].decode()}-{number}.wav"
                (folder / name).write_bytes(content)
                self.clips[digest(content)] = user
                self.cut[digest(content[:-8])] = user

    def recovered(self, folder: Path, user: str) -> tuple[int, int]:
        """Return how many whole clips of a user, and how many files with any part of one, a tool has brought back."""
        whole, parts = set(), 0
        # Path.rglob would stumble over a link that is brought back with whatever its encrypted target says: no path at all.
        for path in (Path(place, name) for place, _, names in os.walk(folder) for name in names):
            if path.is_symlink() or not path.is_file():
                continue
            content = read_sparse(path)
            if user in (self.clips.get(digest(content)), self.cut.get(digest(content))):
                whole.add(digest(content))
            parts += marker(user) in content
        return len(whole), parts

    def hits(self, *patterns: bytes) -> int:
        """Return how often any of the patterns occurs in the raw disk of the clips."""
        return hits(self.volume, *patterns)


def read_sparse(path: Path) -> bytes:
    """Return what a file holds, its holes left out: ext4magic makes files of terabytes out of what it takes for an inode."""
    pieces, place = [], 0
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        # lseek(2): SEEK_DATA fails behind the last data.
        with contextlib.suppress(OSError):
            while place < size:
                start = os.lseek(file.fileno(), place, os.SEEK_DATA)
                place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                pieces.append(os.pread(file.fileno(), place - start, start))
    return b"".join(pieces)


def settle(disk: Disk) -> None:
    """Have everything on the disk, and what follows in another transaction of its journal and another second."""
    subprocess.run(["sync", "--file-system", disk.place], check=True)
    time.sleep(1.1)


def take_away(*disks: Disk) -> None:
    """Have everything on the disks, and unmount them."""
    for each in disks:
        each.unmount()
    # ext4magic looks at nothing that happened less than two seconds ago.
    time.sleep(2.1)


def hits(disk: Disk, *patterns: bytes) -> int:
    raw = read_sparse(disk.image)
    return sum(raw.count(pattern) for pattern in patterns)


def run_tool(tool: str, image: Path, folder: Path) -> Path:
    """Have a tool recover what it can from an image; return the folder with what it brought back."""
    out = folder / f"{tool}-of-{image.stem}"
    out.mkdir()
    # Names of files to write are short ones: ext4magic writes nothing into a folder with a long path.
    arguments = {
        "photorec": ["/d", "found", "/cmd", image, "partition_none,fileopt,everything,enable,options,mode_ext2,search"],
        "foremost": ["-Q", "-t", "wav", "-i", image, "-o", "found"],
        # All stages: by the journal's old inodes, and by the look of blocks that nobody uses.
        "ext4magic": [image, "-M", "-d", "found"],
        "extundelete": ["--restore-all", image],
    }[tool]
    done = subprocess.run(
        [tool, *arguments], cwd=out, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
        env={**os.environ, "TERM": "xterm", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    (out / "said.txt").write_bytes(done.stdout + done.stderr)
    # Killed by a signal, it has looked at a part only.
    assert done.returncode >= 0, done.stderr
    return out


# --- what is stolen -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_the_clear(folder: Path, features: str, erase: Callable[[Droplet, Story], None]) -> Iterator[Story]:
    """A droplet in the weaker mode, or as the app alone would be, from which one user is erased in some way."""
    with disk(folder, "clear", size=SIZE, features=",".join(filter(None, ("^encrypt", features)))) as volume:
        story = Story(volume)
        droplet = Droplet(folder, volume)
        droplet.places.configure(PLAIN, "this is a test")
        droplet.keyring.create()
        droplet.receipts.prepare()
        for user in story.users:
            story.write(user, range(CLIPS))
        settle(volume)
        erase(droplet, story)
        take_away(volume)
        yield story


def delete(droplet: Droplet, story: Story) -> None:
    """Delete a user as the app does."""
    for kind in KINDS:
        for path in sorted(droplet.path(kind, story.erased).iterdir()):
            os.remove(path)
        droplet.path(kind, story.erased).rmdir()


def overwrite(droplet: Droplet, story: Story) -> None:
    assert droplet.shred(story.erased).confirmed is False


@dataclass
class Wrapped:
    """A key that was wrapped at some time: itself, by which key, and what came of it."""

    key: bytes
    by: bytes
    result: bytes


@dataclass
class Encrypted(Story):
    """A story with keys: all that ever existed, and those that still do."""

    ever: list[Wrapped] = field(default_factory=list)
    root_key: bytes = b""
    in_force: set[bytes] = field(default_factory=set)
    """Content of each file of the key ring at the end."""

    def secrets(self) -> set[bytes]:
        """Return every key and wrapping that ever existed, and is not in force any more."""
        ever = {secret for one in self.ever for secret in (one.key, one.by, one.result)}
        unwrapped = {one.key for one in self.ever if one.result in self.in_force}
        return ever - self.in_force - unwrapped


@contextlib.contextmanager
def encrypted(folder: Path, features: str, *, erase: bool) -> Iterator[Encrypted]:
    """A vault that has seen adoptions, new lobbies, new key-encryption keys and another erasure, and then one user's."""
    features = ",".join(filter(None, ("encrypt", features)))
    ever: list[Wrapped] = []
    genuine = keys.wrap

    def wrap(key: bytes, by: bytes) -> bytes:
        ever.append(Wrapped(key, by, genuine(key, by)))
        return ever[-1].result

    with (
        disk(folder, "volume", size=SIZE, features=features) as volume,
        disk(folder, "key-disk", size=SIZE_OF_KEYS, features="^encrypt") as key_disk,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(keys, "wrap", wrap)
        story = Encrypted(volume, key_disk, ever=ever)
        droplet = Droplet(key_disk.place, volume)
        droplet.prepare()
        for user in story.users:
            story.write(user, range(CLIPS))
        assert droplet.adopt().problems == []
        assert droplet.renew().complete
        droplet.keyring.rekey()
        for user in story.users:
            story.write(user, range(CLIPS, CLIPS + CLIPS // 2))
        settle(volume)
        # What the app deletes before anybody asks for an erasure is covered too.
        os.remove(next(droplet.path("clips", story.erased).iterdir()))
        earlier, later = str(uuid.uuid4()), str(uuid.uuid4())
        story.write(earlier, range(4))
        assert droplet.adopt().problems == []
        droplet.keyring.rekey()
        droplet.shred(earlier)
        story.write(later, range(4))
        assert droplet.renew().complete
        settle(volume)
        root = droplet.keyring.root_key(droplet.vault_id(story.erased))
        assert root is not None
        story.root_key = root
        if erase:
            assert droplet.shred(story.erased).key_destroyed_after is not None
        story.users += [earlier, later]
        story.in_force = {path.read_bytes() for path in (droplet.places.keys / "ring").rglob("*") if path.is_file()}
        take_away(volume, key_disk)
        yield story


@pytest.fixture(scope="module", params=[USUAL, OLDER], ids=["ext4", "ext4-for-extundelete"])
def features(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def deleted(features: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The control: no vault, and a user whose clips the app has deleted."""
    with in_the_clear(tmp_path_factory.mktemp("deleted"), features, delete) as story:
        yield story


@pytest.fixture(scope="module")
def overwritten(features: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The weaker mode, and a user whose clips were overwritten."""
    with in_the_clear(tmp_path_factory.mktemp("overwritten"), features, overwrite) as story:
        yield story


@pytest.fixture(scope="module")
def at_rest(features: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    """A vault before the erasure."""
    with encrypted(tmp_path_factory.mktemp("rest"), features, erase=False) as story:
        yield story


@pytest.fixture(scope="module")
def shredded(features: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    """The same vault after it."""
    with encrypted(tmp_path_factory.mktemp("shredded"), features, erase=True) as story:
        yield story


# --- what the thief finds ------------------------------------------------------------------------------------------------


def test_the_tools_bring_back_clips_that_were_only_deleted(deleted: Story, features: str, tmp_path: Path) -> None:
    """The control for all that follows."""
    brought = {tool: deleted.recovered(run_tool(tool, deleted.volume.image, tmp_path), deleted.erased) for tool in TOOLS_FOR[features]}
    print(f"whole clips and files with parts of clips, of {2 * CLIPS} deleted: {brought}")
    assert {tool for tool, (whole, _) in brought.items() if whole == 0} == set()
    assert deleted.hits(marker(deleted.erased)) > LEAST_HITS_IN_THE_CLEAR


def test_the_tools_bring_back_nothing_of_an_erased_user(shredded: Encrypted, features: str, tmp_path: Path) -> None:
    for tool in TOOLS_FOR[features]:
        found = run_tool(tool, shredded.volume.image, tmp_path)
        assert {user: shredded.recovered(found, user) for user in shredded.users} == dict.fromkeys(shredded.users, (0, 0)), tool


def test_the_tools_bring_back_nothing_that_was_overwritten(overwritten: Story, features: str, tmp_path: Path) -> None:
    for tool in TOOLS_FOR[features]:
        found = run_tool(tool, overwritten.volume.image, tmp_path)
        assert overwritten.recovered(found, overwritten.erased) == (0, 0), tool
        if tool in ("photorec", "foremost"):
            # They look at everything, and others' clips lie there as they were.
            assert overwritten.recovered(found, overwritten.kept)[0] > 0, tool


def test_a_scan_of_the_raw_disk_finds_nothing_that_was_overwritten(overwritten: Story) -> None:
    assert overwritten.hits(marker(overwritten.erased)) == 0
    assert overwritten.hits(marker(overwritten.kept)) > LEAST_HITS_IN_THE_CLEAR


def test_a_scan_of_the_raw_disk_finds_no_clip_name_or_user_in_a_vault(at_rest: Encrypted, shredded: Encrypted, deleted: Story) -> None:
    for story in (at_rest, shredded):
        assert story.hits(*(marker(user) for user in story.users)) == 0
        assert story.hits(*(user.encode() for user in story.users), b"laughter-") == 0
        # Nor in another alphabet.
        assert story.hits(*(uuid.UUID(user).bytes for user in story.users)) == 0
    assert deleted.hits(*(marker(user) for user in deleted.users)) > 3 * LEAST_HITS_IN_THE_CLEAR
    assert deleted.hits(*(user.encode() for user in deleted.users)) > 0
    assert deleted.hits(b"laughter-") > 2 * CLIPS * len(deleted.users) // 2


def test_no_key_of_an_erased_user_is_left_in_any_generation(shredded: Encrypted, at_rest: Encrypted) -> None:
    def pieces(secret: bytes) -> tuple[bytes, bytes]:
        return secret[:16], secret[-16:]

    def found(story: Encrypted, secrets: set[bytes]) -> int:
        assert story.key_disk is not None
        return sum(hits(where, *(piece for secret in secrets for piece in pieces(secret))) for where in (story.volume, story.key_disk))

    of_the_user = {one.result for one in shredded.ever if one.key == shredded.root_key}
    assert len(of_the_user) >= 4, "it was wrapped when it was made, and at least three times anew"
    assert of_the_user <= shredded.secrets()
    assert found(shredded, {shredded.root_key, fscrypt_key(shredded.root_key), *of_the_user}) == 0
    # Nor what unwrapped them, nor any key that the lobby ever had but the last one, nor other users' earlier wrappings.
    assert found(shredded, shredded.secrets()) == 0
    # The control: a wrapping that is in force is found, and so is the key that unwraps it, before the erasure this user's too.
    assert found(shredded, shredded.in_force) >= 2 * len(shredded.in_force)
    in_force = {one.result for one in at_rest.ever if one.key == at_rest.root_key} & at_rest.in_force
    assert len(in_force) == 1
    assert found(at_rest, in_force) == 2
    # Keys are never written as they are.
    assert found(at_rest, {one.key for one in at_rest.ever} | {fscrypt_key(one.key) for one in at_rest.ever}) == 0


def test_nobody_can_tell_from_the_disk_of_keys_who_was_erased(shredded: Encrypted) -> None:
    """The tombstone says a keyed hash, and neither the journal nor a receipt names the user."""
    assert shredded.key_disk is not None
    assert hits(shredded.key_disk, shredded.erased.encode()) == 0


def test_with_all_keys_that_are_left_only_the_others_clips_can_be_read(shredded: Encrypted) -> None:
    """An erasure that erased everybody would pass all the rest."""
    assert shredded.key_disk is not None
    droplet = Droplet(shredded.key_disk.place, shredded.volume)
    try:
        shredded.volume.mount()
        shredded.key_disk.mount()
        with droplet.volume() as volume:
            unlock.unlock(volume, droplet.keyring, droplet.ledger)
            assert droplet.vault_id(shredded.erased) not in volume.vault_ids()
        gone = {shredded.erased, shredded.users[3]}
        read = [digest(path.read_bytes()) for path in droplet.disk.place.glob("vaults/*/*/*.wav")]
        assert sorted(read) == sorted(known for known, user in shredded.clips.items() if user not in gone)
        assert not re.search("|".join(gone), " ".join(os.listdir(droplet.disk.place / "vaults")))
    finally:
        shredded.volume.unmount()
        shredded.key_disk.unmount()
