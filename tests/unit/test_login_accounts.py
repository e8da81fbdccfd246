"""One superuser, no passwords nobody asked for, exact members of powerful groups, no stray keys."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gigglekit.login.accounts import Accounts, merge

from tests.public_keys import ed25519_key

GROUPS = {"sudo": ["operator"], "adm": ["operator"], "docker": []}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "passwd": "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n"
        "operator:x:1000:37::/home/operator:/bin/bash\nmallory:x:1001:1001::/home/mallory:/bin/bash\n",
        "shadow": "root:!:1:0:99999:7:::\nwww-data:*:1:0:99999:7:::\noperator:!:1:0:99999:7:::\nmallory:!:1:0:99999:7:::\n",
        "group": "root:x:0:\nsudo:x:27:operator\nadm:x:4:operator\nvideo:x:44:mallory\n",
        "gshadow": "root:*::\nsudo:*::operator\nadm:*::operator\nvideo:*::mallory\n",
    }
    for name, text in files.items():
        path = tmp_path / "etc" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for folder in ("root", "home/operator/.ssh", "home/mallory"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "home/operator/.ssh/authorized_keys").write_text(ed25519_key() + "\n")
    return tmp_path


def found(root: Path, *, admin_password: bool = False) -> dict[str, object]:
    return Accounts(root).differences("operator", GROUPS, admin_password=admin_password)


def brought(root: Path, *, admin_password: bool = False) -> None:
    Accounts(root).bring("operator", GROUPS, admin_password=admin_password)
    assert found(root, admin_password=admin_password) == {}


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / "etc" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(("field", "has"), [("!", False), ("", False), ("*", False), ("!$y$j9T$abc", False), ("$y$j9T$abc", True)])
def test_whether_sudo_could_ask_for_a_password_is_known(root: Path, field: str, has: bool) -> None:
    edit(root, "shadow", "operator:!:", f"operator:{field}:")
    assert Accounts(root).has_password("operator") is has
    assert not Accounts(root).has_password("nobody-here")


def test_nothing_is_changed_when_all_is_right(root: Path) -> None:
    before = {path.name: (path.read_text(), path.stat().st_ino) for path in (root / "etc").iterdir()}
    assert found(root) == {}
    brought(root)
    after = {path.name: (path.read_text(), path.stat().st_ino) for path in (root / "etc").iterdir()}
    assert before == {name: entry for name, entry in after.items() if name in before}


def test_a_second_superuser_is_removed_from_every_file(root: Path) -> None:
    edit(root, "passwd", "mallory:x:1001", "toor:x:0:0::/root:/bin/sh\nmallory:x:1001")
    edit(root, "shadow", "mallory:", "toor:$6$salt$hash:1:0:99999:7:::\nmallory:")
    edit(root, "group", "video:x:44:mallory", "video:x:44:mallory,toor")
    assert found(root) == {"superusers removed": ["toor"]}
    brought(root)
    assert not any("toor" in path.read_text() for path in (root / "etc").iterdir())
    assert (root / "etc/passwd").read_text().startswith("root:x:0:0:")


@pytest.mark.parametrize("name", ["root", "operator"])
def test_a_password_that_nobody_asked_for_is_locked(root: Path, name: str) -> None:
    edit(root, "shadow", f"{name}:!:", f"{name}:$6$salt$hash:")
    assert found(root) == {"passwords locked": [name]}
    brought(root)
    assert f"{name}:!$6$salt$hash:" in (root / "etc/shadow").read_text()


def test_an_empty_password_is_locked_whoever_has_it(root: Path) -> None:
    edit(root, "shadow", "mallory:!:", "mallory::")
    assert found(root) == {"passwords locked": ["mallory"]}
    brought(root)


def test_the_administrator_may_have_a_password_where_sudo_asks_for_it(root: Path) -> None:
    edit(root, "shadow", "operator:!:", "operator:$6$salt$hash:")
    assert found(root, admin_password=True) == {}


@pytest.mark.parametrize(
    "ages",
    ["0:0:99999:7:::", "1:0:90:7:::", "1:0:99999:7::19000:", "1:0:99999:7::99000:"],
    ids=["change at once", "too old", "ended", "ends"],
)
@pytest.mark.parametrize("password", ["!", "$6$salt$hash"])
def test_nothing_makes_pam_refuse_roots_own_jobs(root: Path, ages: str, password: str) -> None:
    # A droplet that was created with a password has lastchg 0: cron's PAM asks for a new one and runs nothing of root's.
    edit(root, "shadow", "root:!:1:0:99999:7:::", f"root:{password}:{ages}")
    edit(root, "shadow", "mallory:!:1:0:99999:7:::", f"mallory:!:{ages}")
    assert found(root)["expired accounts revived"] == ["root"]
    brought(root)
    today = int(time.time() // 86400)
    hashed = "!" if password == "!" else f"!{password}"
    assert (root / "etc/shadow").read_text().splitlines()[0] in [f"root:{hashed}:{day}:0:99999:7:::" for day in (today, today - 1)]
    assert f"mallory:!:{ages}" in (root / "etc/shadow").read_text(), "other accounts may end"


def test_the_age_of_a_password_that_the_administrator_may_have_is_his_own(root: Path) -> None:
    edit(root, "shadow", "operator:!:1:", "operator:$6$salt$hash:0:")
    assert found(root, admin_password=True) == {}
    assert found(root) == {"passwords locked": ["operator"], "expired accounts revived": ["operator"]}
    brought(root)


@pytest.mark.parametrize(("number", "group"), [("27", "sudo"), ("4", "adm"), ("0", "root")])
def test_a_powerful_primary_group_is_taken_away(root: Path, number: str, group: str) -> None:
    edit(root, "passwd", "mallory:x:1001:1001:", f"mallory:x:1001:{number}:")
    groups = {**GROUPS, "root": []}
    assert Accounts(root).differences("operator", groups, admin_password=False) == {
        "primary groups": {"mallory": {"old": group, "new": "nogroup"}}
    }
    Accounts(root).bring("operator", groups, admin_password=False)
    assert Accounts(root).differences("operator", groups, admin_password=False) == {}
    assert "mallory:x:1001:65534:" in (root / "etc/passwd").read_text()
    assert "root:x:0:0:" in (root / "etc/passwd").read_text()


def test_an_account_gets_its_own_group_back_and_keeps_the_one_of_its_name(root: Path) -> None:
    (root / "etc/group").write_text((root / "etc/group").read_text() + "mallory:x:1001:\nwww-data:x:33:\n")
    edit(root, "passwd", "mallory:x:1001:1001:", "mallory:x:1001:27:")
    groups = {**GROUPS, "www-data": []}
    Accounts(root).bring("operator", groups, admin_password=False)
    assert "mallory:x:1001:1001:" in (root / "etc/passwd").read_text()
    assert "www-data:x:33:33:" in (root / "etc/passwd").read_text()


def test_members_of_powerful_groups_are_exact_and_others_are_left_alone(root: Path) -> None:
    for name in ("group", "gshadow"):
        edit(root, name, "operator", "mallory")
    assert found(root) == {"groups": {"sudo": {"added": ["operator"], "removed": ["mallory"]}}}
    brought(root)
    assert "sudo:x:27:operator\n" in (root / "etc/group").read_text()
    assert "sudo:*::operator\n" in (root / "etc/gshadow").read_text()
    assert "video:x:44:mallory\n" in (root / "etc/group").read_text()


def test_who_may_become_root_now_is_known_with_a_home(root: Path) -> None:
    accounts = Accounts(root)
    members = accounts._entries("etc/group")["sudo"][3].split(",")
    assert members
    assert accounts.homes("sudo") == [accounts.home(name) for name in members]
    assert accounts.homes("there-is-none") == []


def test_keys_of_anybody_else_are_removed_and_named(root: Path) -> None:
    (root / "root/.ssh").mkdir()
    (root / "root/.ssh/authorized_keys").write_text("# comment\n" + ed25519_key(1) + "\n")
    (root / "home/operator/.ssh/authorized_keys2").write_text("garbage\n")
    (root / "home/mallory/.ssh").mkdir()
    (root / "home/mallory/.ssh/authorized_keys").symlink_to("/nowhere")
    keys = found(root)["keys removed"]
    assert isinstance(keys, dict)
    assert set(keys) == {
        "/root/.ssh/authorized_keys",
        "/home/operator/.ssh/authorized_keys2",
        "/home/mallory/.ssh/authorized_keys",
    }
    assert keys["/root/.ssh/authorized_keys"][0].startswith("ssh-ed25519 SHA256:")
    brought(root)
    assert (root / "home/operator/.ssh/authorized_keys").exists()


def test_a_folder_or_a_pipe_in_the_place_of_keys_is_removed_as_well(root: Path) -> None:
    for home in ("root", "home/mallory"):
        (root / home / ".ssh").mkdir()
    (root / "root/.ssh/authorized_keys").mkdir()
    (root / "root/.ssh/authorized_keys/inside").write_text("")
    os.mkfifo(root / "home/mallory/.ssh/authorized_keys")
    assert found(root) == {
        "keys removed": {
            "/root/.ssh/authorized_keys": ["(not a readable file)"],
            "/home/mallory/.ssh/authorized_keys": ["(not a readable file)"],
        }
    }
    brought(root)


def test_a_link_to_the_administrators_keys_does_not_cost_it_its_keys(root: Path) -> None:
    (root / "home/mallory/.ssh").symlink_to(root / "home/operator/.ssh")
    assert found(root) == {}


def test_an_account_that_shares_the_administrators_home_does_not_cost_it_its_keys(root: Path) -> None:
    edit(root, "passwd", "/home/mallory", "/home/operator")
    assert found(root) == {}


def test_before_the_administrator_exists_his_membership_is_announced(root: Path) -> None:
    for name in ("group", "gshadow"):
        edit(root, name, "sudo:x:27:operator" if name == "group" else "sudo:*::operator", "sudo:x:27:" if name == "group" else "sudo:*::")
    edit(root, "passwd", "operator:x:1000:37::/home/operator:/bin/bash\n", "")
    assert found(root) == {"groups": {"sudo": {"added": ["operator"]}}}


def test_merging_puts_entries_back_and_keeps_new_ones() -> None:
    earlier = "root:x:0\nold:x:5\n"
    now = "root:changed:0\nnew:x:7\n"
    assert merge(earlier, now) == "root:x:0\nold:x:5\nnew:x:7\n"
    assert merge(earlier, earlier) == earlier
