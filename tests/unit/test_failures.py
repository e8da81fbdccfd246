"""A failure that Salt's own states report without a remedy becomes one paragraph with cause and remedy, and quotes nothing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gigglekit.failures import explanation, filesystem
from gigglekit.failures.causes import CAUSES
from gigglekit.failures.failure import Failure, unexplained

URL = "http://apt.example.org/debian/pool/main/l/logrotate/logrotate_3.21.0-1_amd64.deb"
SECRET = "correct-horse-battery-staple"

# What is said, in the words of Python, salt 3008, apt 2.6 and dpkg 1.21, and what the explanation must say.
SAID: dict[str, tuple[str, list[str]]] = {
    "full": (
        "Failed to commit change: [Errno 28] No space left on device: '/tmp/__salt.tmp.xh9h3_ko' -> '/nowhere/gigglesjdrwql_v'",
        ["too little room", r"/\S* \(.* of .* free\)", r"du -xh --max-depth=2 /", "apt-get clean"],
    ),
    "full, says apt": ("E: You don't have enough free space in /var/cache/apt/archives/.", ["too little room"]),
    "quota": ("[Errno 122] Disk quota exceeded: '/etc/x'", ["quota", "edquota", "used up"]),
    "read-only": ("[Errno 30] Read-only file system: '/etc/x'", ["read-only", "dmesg", "remount,rw"]),
    "read-only, says apt": ("W: Not using locking for read only lock file /var/lib/dpkg/lock\n"
                            "E: Sub-process /usr/bin/dpkg returned an error code (2)", ["read-only"]),
    "broken disk": ("[Errno 5] Input/output error: '/etc/x'", ["could not be read or written", "dmesg", "uploads"]),
    "memory": ("[Errno 12] Cannot allocate memory", ["memory ran out", "swap_mb", "giggles-nightly"]),
    "immutable": ("[Errno 1] Operation not permitted: '/etc/hostname'", ["/etc/hostname", "immutable", "lsattr -d /etc /etc/hostname"]),
    "lock": (
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)",
        [r"unattended-upgr \(process 812\)", "Wait", "Never remove"],
    ),
    "lock, says dpkg": ("dpkg: error: dpkg frontend lock was locked by another process with pid 77", [r"another program \(process 77\)"]),
    "interrupted": (
        "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.",
        ["interrupted", "dpkg --configure -a"],
    ),
    "hash": (f"E: Failed to fetch {URL}  Hash Sum mismatch\n   Hashes of expected file:", ["apt.example.org", "promise", "apt-get update"]),
    "clock": (
        "E: Release file for http://apt.example.org/debian/dists/bookworm/InRelease is not valid yet (invalid for another 3h)",
        ["clock", "timedatectl"],
    ),
    "signature": (
        "W: GPG error: http://example.org stable InRelease: The following signatures couldn't be verified: NO_PUBKEY 0123",
        ["not signed", "sources.list.d", "Do not let apt skip"],
    ),
    "no name server": (
        f"E: Failed to fetch {URL}  Could not resolve 'apt.example.org'\nE: Unable to fetch some archives, maybe run apt-get update",
        ["logrotate could not be fetched", "no address for the name apt.example.org", "getent hosts apt.example.org", "resolv.conf"],
    ),
    "no name server, temporarily": (f"E: Failed to fetch {URL}  Temporary failure resolving 'mirror.example.org'", ["mirror.example.org"]),
    "no connection": (
        f"E: Failed to fetch {URL}  Could not connect to 10.0.0.9:3128 (10.0.0.9). - connect (111: Connection refused)",
        ["logrotate", "10.0.0.9 does not let", "proxy", "firewall"],
    ),
    "no way": (f"E: Failed to fetch {URL}  Cannot initiate the connection to apt.example.org:80 (2a04::644). - connect "
               "(101: Network is unreachable) [IP: 2a04::644 80]", ["apt.example.org does not let", "ip route"]),
    "gone": (f"E: Failed to fetch {URL}  404  Not Found [IP: 10.0.0.1 80]", ["older than what it offers", "apt-get update"]),
    "refused": (f"E: Failed to fetch {URL}  403  Forbidden [IP: 10.0.0.1 80]", ["did not hand it out", "proxy"]),
    "contradiction": ("E: Unmet dependencies. Try 'apt --fix-broken install' with no packages", ["contradict", "--fix-broken install"]),
    "unknown": ("E: Package 'logrotate' has no installation candidate", ["knows no logrotate", "apt-get update"]),
    "unknown, says Salt": (
        "The following packages were not found, and no possible matches were found in the package db: a-package, another",
        ["knows no a-package"],
    ),
    "script": ("E: Sub-process /usr/bin/dpkg returned an error code (1)", ["dpkg --configure -a", "term.log"]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_apt_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let what this machine installed last have no part in it."""
    monkeypatch.setattr(explanation.explain, "__defaults__", (tmp_path / "term.log",))


def explain(said: str, identifier: str = "something-true", name: str = "something-true") -> str:
    """Return the one explanation of one failure."""
    paragraphs = explanation.explain([Failure(identifier, name, said)])
    assert len(paragraphs) == 1, paragraphs
    return paragraphs[0]


@pytest.mark.parametrize("case", SAID)
def test_a_known_cause_is_one_paragraph_with_cause_and_remedy(case: str) -> None:
    said, words = SAID[case]
    paragraph = explain(f"Problem encountered.\n\nerrors:\n    - {said}")
    assert paragraph.startswith("something-true failed, since ")
    assert "run `sudo salt-call state.apply`" in paragraph
    for word in words:
        assert re.search(word, paragraph), f"it does not say {word!r}: {paragraph}"
    assert "\n" not in paragraph
    assert len(paragraph) < 900
    assert "{" not in paragraph


def test_every_cause_is_known_by_what_is_said() -> None:
    hit = {next(cause for cause in CAUSES if cause.is_behind(said)) for said, _ in SAID.values()}
    assert [cause.pattern for cause in CAUSES if cause not in hit] == []


@pytest.mark.parametrize("case", SAID)
def test_no_free_text_is_taken_over(case: str) -> None:
    said, _ = SAID[case]
    with_password = said.replace("http://", f"http://somebody:{SECRET}@")
    paragraph = explain(f"DATABASE_URL=postgres://giggles:{SECRET}@db/x {SECRET}\n{with_password} {SECRET}\nkey: {SECRET}")
    assert SECRET not in paragraph


def test_of_an_address_the_host_alone_is_named() -> None:
    address = f"http://somebody:{SECRET}@mirror.example.org:8080/x/logrotate_3_amd64.deb"
    assert ": mirror.example.org did not hand it out" in explain(f"E: Failed to fetch {address}  403  Forbidden")
    assert ": the package server did not hand it out" in explain("E: Failed to fetch http://$(reboot)/x  403  Forbidden")


@pytest.mark.parametrize("said", ["", 'Command "nginx -q -t" run', "Unable to manage file: none of the specified sources were found"])
def test_what_is_not_known_is_not_guessed(said: str) -> None:
    assert explanation.explain([Failure("x", "x", said)]) == []


def test_one_paragraph_for_a_cause_whatever_it_broke() -> None:
    files = [Failure(f"file-{number}", "x", "Cannot allocate memory") for number in range(9)]
    paragraphs = explanation.explain([*files, Failure("packages", "x", "dpkg was interrupted")])
    assert [paragraph.partition(" failed")[0] for paragraph in paragraphs] == ["file-0, file-1, file-2, file-3 and 5 more", "packages"]


def test_why_dpkg_failed_is_read_where_it_says_so(tmp_path: Path) -> None:
    log = tmp_path / "term.log"
    log.write_text(
        "Log started: 2026-11-24  14:11:54\n failed to write (No space left on device)\nLog ended: 2026-11-24  14:11:55\n\n"
        "Log started: 2026-11-24  14:13:19\nUnpacking logrotate (3.21.0-1) ...\ndpkg: error processing archive\n"
        " cannot copy extracted data to '/etc/cron.daily/logrotate.dpkg-new': failed to write (Input/output error)\n"
        "Log ended: 2026-11-24  14:13:19\n"
    )
    failure = Failure("packages", "packages", SAID["script"][0])
    assert "could not be read or written" in explanation.explain([failure], log)[0]
    # Of another failure it says nothing.
    assert explanation.explain([Failure("packages", "packages", "E: something else")], log) == []
    assert "term.log" in explanation.explain([failure], tmp_path / "nowhere")[0]


# --- file systems --------------------------------------------------------------------------------------------------------


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Have something mounted at a new folder."""
    place.mkdir()
    subprocess.run(["mount", *options, place], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True, timeout=30)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB and 20 files."""
    with mounted(tmp_path / "small one", "-t", "tmpfs", "-o", "size=256k,nr_inodes=20", "small") as place:
        yield place


def test_a_full_file_system_is_named_with_what_is_free(small: Path) -> None:
    (small / "filler").write_bytes(bytes(256 * 1024))
    paragraph = explain("[Errno 28] No space left on device", name=f"{small}/new/file")
    assert f": {small} (0 KB of 256 KB free)." in paragraph
    assert f"du -xh --max-depth=2 '{small}'" in paragraph


def test_a_file_system_without_inodes_is_named_with_them(small: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "big", "-t", "tmpfs", "-o", "size=2g,nr_inodes=20", "big") as big:
        for number in range(19):
            (big / str(number)).touch()
        paragraph = explain(f"[Errno 28] No space left on device: '{big}/file'", name=f"{small}/file")
    assert f": {big} (room for 0 of 20 files, however small)." in paragraph
    assert f"du -x --inodes --max-depth=2 {big}" in paragraph


def test_what_has_room_again_is_named_with_it(small: Path) -> None:
    assert f"{small} (256 KB of 256 KB free)" in explain("No space left on device", name=f"{small}/file")


def test_a_read_only_file_system_is_named_and_not_called_full(small: Path) -> None:
    (small / "filler").write_bytes(bytes(256 * 1024))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True, timeout=30)
    found = filesystem.holding(str(small / "some" / "thing"))
    assert found is not None
    assert (found.mount, found.read_only, found.full) == (str(small), True, False)
    assert f"nothing can be written to {small}:" in explain("[Errno 30] Read-only file system", name=f"{small}/file")


def test_a_folder_mounted_elsewhere_is_a_place_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with mounted(tmp_path / "elsewhere", "--bind", str(folder)) as elsewhere:
        found = filesystem.holding(str(elsewhere / "x"))
    assert found is not None
    assert found.mount == str(elsewhere)


# --- what failed ---------------------------------------------------------------------------------------------------------


def returned(result: bool | None, comment: str = "", **more: object) -> dict[str, object]:
    return {"result": result, "comment": comment, "changes": {}, "name": "/etc/x", **more}


def test_what_failed_by_itself_and_does_not_say_what_to_do() -> None:
    running = {
        "file_|-right_|-/etc/x_|-managed": returned(True, "No space left on device"),
        "file_|-to-be-changed_|-/etc/x_|-managed": returned(None, "No space left on device"),
        "file_|-wrong_|-/etc/x_|-managed": returned(False, "No space left on device"),
        "file_|-behind-it_|-/etc/x_|-managed": returned(False, "One or more requisite failed", __state_ran__=False),
        "ufw_|-ours_|-ours_|-exactly": returned(False, "No space left on device. Free some."),
        "ufw_|-ours-raised_|-ours_|-exactly": returned(False, "An exception occurred in this state: … No space left on device"),
        "cmd_|-command_|-x_|-run": returned(False, "Command run", changes={"retcode": 1, "stderr": "No space left on device"}),
        "file_|-with-a-diff_|-x_|-managed": returned(False, "Wrong", changes={"diff": "+ No space left on device"}),
        "__FAILHARD__": True,
    }
    found = {failure.identifier: failure for failure in unexplained(running, {"ufw", "failures"})}
    assert list(found) == ["wrong", "ours-raised", "command", "with-a-diff"]
    assert [name for name, failure in found.items() if "No space left" in failure.said] == ["wrong", "ours-raised", "command"]
    assert found["wrong"].name == "/etc/x"
