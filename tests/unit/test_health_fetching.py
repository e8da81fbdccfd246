"""What a droplet takes over of its repository, and what it refuses: with real repositories and real signatures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.health.fetching import FetchError, Tree

_GIT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "someone@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, env={**os.environ, **_GIT}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Forge:
    """The repository that is pushed to, and the droplet's tree that was cloned from it."""

    def __init__(self, folder: Path) -> None:
        self.remote, self.path, self.signers = folder / "remote", folder / "tree", folder / "allowed_signers"
        git(folder, "init", "--quiet", "--initial-branch=main", str(self.remote))
        self.commit("_utils/gigglekit/__init__.py", "")
        self.commit("salt/top.sls", "first\n")
        git(folder, "clone", "--quiet", str(self.remote), str(self.path))
        self.keys = {name: folder / f"key-{name}" for name in ("friend", "stranger")}

    def key(self, who: str) -> Path:
        path = self.keys[who]
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", str(path)], check=True, timeout=60)
        return path

    def allow_friend(self) -> None:
        self.signers.write_text(f"friend@example.com {self.key('friend').with_suffix('.pub').read_text()}")

    def commit(self, name: str, text: str, *, signed_by: str | None = None) -> str:
        path = self.remote / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        git(self.remote, "add", "--all")
        signing = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={self.key(signed_by)}"] if signed_by else []
        git(self.remote, *signing, "commit", "--quiet", "--message", f"{name}: {text[:20]}", *(["--gpg-sign"] if signed_by else []))
        return git(self.remote, "rev-parse", "HEAD")

    def tree(self, *, signed: bool = False, spare: int = 0) -> Tree:
        return Tree(self.path, self.signers if signed else None, spare=spare, pause=0)

    def refused(self, *words: str, signed: bool = False, spare: int = 0) -> str:
        """Insist that nothing is taken over, that the tree is untouched, and that one paragraph says why."""
        before = (git(self.path, "rev-parse", "HEAD"), git(self.path, "status", "--porcelain"))
        with pytest.raises(FetchError) as told:
            self.tree(signed=signed, spare=spare).look()
        assert (git(self.path, "rev-parse", "HEAD"), git(self.path, "status", "--porcelain")) == before
        text = str(told.value)
        assert "\n" not in text
        for word in (*words, "The last good tree stays"):
            assert word in text
        return text


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path)


def test_a_new_commit_is_fetched_and_laid_out_only_when_it_is_taken(forge: Forge) -> None:
    tree, old = forge.tree(), git(forge.path, "rev-parse", "HEAD")
    assert tree.look().commit is None
    new = forge.commit("salt/web/init.sls", "second\n")
    assert tree.look().commit == new
    assert (tree.head(), (forge.path / "salt/web/init.sls").exists()) == (old, False)
    tree.take(new)
    assert (tree.head(), (forge.path / "salt/web/init.sls").read_text()) == (new, "second\n")
    assert tree.look().commit is None
    tree.put_back(old)
    assert (tree.head(), (forge.path / "salt/web/init.sls").exists()) == (old, False)
    assert git(forge.path, "status", "--porcelain", "--branch") != ""
    assert tree.look().commit == new


def test_rewritten_history_is_refused(forge: Forge) -> None:
    second = forge.commit("a", "second\n")
    forge.tree().take(str(forge.tree().look().commit))
    git(forge.remote, "reset", "--quiet", "--hard", "HEAD~1")
    forge.refused("force-push", second[:12])
    other = forge.commit("a", "other\n")
    forge.refused("force-push", second[:12], other[:12])


def test_a_commit_made_on_the_droplet_is_not_thrown_away(forge: Forge) -> None:
    (forge.path / "mine").write_text("mine\n")
    git(forge.path, "add", "mine")
    git(forge.path, "commit", "--quiet", "--message", "mine")
    forge.commit("salt/top.sls", "theirs\n")
    forge.refused("never pushed")
    assert (forge.path / "mine").exists()


def test_commits_of_an_allowed_signer_are_taken(forge: Forge) -> None:
    forge.allow_friend()
    forge.commit("a", "1\n", signed_by="friend")
    new = forge.commit("a", "2\n", signed_by="friend")
    assert forge.tree(signed=True).look().commit == new


@pytest.mark.parametrize("signer", [None, "stranger"], ids=["unsigned", "wrong-signer"])
def test_one_commit_that_nobody_allowed_has_signed_is_enough_to_refuse_all(forge: Forge, signer: str | None) -> None:
    forge.allow_friend()
    forge.commit("a", "1\n", signed_by="friend")
    bad = forge.commit("a", "2\n", signed_by=signer)
    forge.commit("a", "3\n", signed_by="friend")
    forge.refused(bad[:12], "nobody who may" if signer else "is not signed", signed=True)
    # Without signers nobody asks.
    assert forge.tree().look().commit is not None


def test_a_commit_that_came_by_a_merge_is_checked_too(forge: Forge) -> None:
    forge.allow_friend()
    git(forge.remote, "checkout", "--quiet", "-b", "side")
    bad = forge.commit("side", "1\n")
    git(forge.remote, "checkout", "--quiet", "main")
    forge.commit("a", "2\n", signed_by="friend")
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={forge.key('friend')}")
    git(forge.remote, *signing, "merge", "--quiet", "--no-ff", "--gpg-sign", "--message", "merge", "side")
    forge.refused(bad[:12], "is not signed", signed=True)


def test_a_signature_that_belongs_to_another_commit_counts_for_nothing(forge: Forge) -> None:
    forge.allow_friend()
    good = forge.commit("a", "1\n", signed_by="friend")
    raw = subprocess.run(
        ["git", "-C", str(forge.remote), "cat-file", "commit", good], capture_output=True, text=True, check=True
    ).stdout.replace("a: 1", "a: x")
    forged = subprocess.run(
        ["git", "-C", str(forge.remote), "hash-object", "-t", "commit", "-w", "--stdin"],
        input=raw, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    git(forge.remote, "update-ref", "refs/heads/main", forged)
    forge.refused(forged[:12], "nobody who may", signed=True)


def test_a_signature_of_another_program_counts_for_nothing(forge: Forge, tmp_path: Path) -> None:
    forge.allow_friend()
    approving = tmp_path / "gpg"
    approving.write_text(
        "#!/bin/sh\ncat >/dev/null\n"
        "printf '[GNUPG:] SIG_CREATED \\n' >&2\nprintf -- '-----BEGIN PGP SIGNATURE-----\\nx\\n-----END PGP SIGNATURE-----\\n'\n"
        "printf '[GNUPG:] GOODSIG 1 x\\n[GNUPG:] VALIDSIG 1\\n[GNUPG:] TRUST_ULTIMATE 0\\n'\n"
    )
    approving.chmod(0o755)
    (forge.remote / "a").write_text("1\n")
    git(forge.remote, "add", "--all")
    git(forge.remote, "-c", f"gpg.program={approving}", "commit", "--quiet", "--gpg-sign", "--message", "signed")
    git(forge.path, "config", "gpg.program", str(approving))
    forge.refused("nobody who may", signed=True)


def test_signers_that_cannot_be_read_let_nothing_pass(forge: Forge) -> None:
    forge.commit("a", "1\n", signed_by="friend")
    forge.refused("nobody who may", signed=True)


def test_a_remote_that_does_not_answer_is_told(forge: Forge) -> None:
    forge.remote.rename(forge.remote.with_name("away"))
    forge.refused("cannot be read", "origin")


def test_a_remote_that_never_answers_is_given_up(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gigglekit.health.fetching._FETCH_SECONDS", 0.2)
    git(forge.path, "config", "remote.origin.url", "ext::sleep 60")
    git(forge.path, "config", "protocol.ext.allow", "always")
    forge.refused("no answer within")


@pytest.mark.parametrize("how", ["detached", "no-remote"])
def test_where_nothing_can_be_fetched_it_is_said_and_no_failure(forge: Forge, how: str) -> None:
    git(forge.path, *(["checkout", "--quiet", "--detach"] if how == "detached" else ["remote", "remove", "origin"]))
    looked = forge.tree().look()
    assert looked.commit is None
    assert "nothing new is fetched" in looked.reason


def test_edits_are_put_away_and_kept(forge: Forge) -> None:
    (forge.path / "salt/top.sls").write_text("edited\n")
    (forge.path / "salt/new name.sls").write_text("new\n")
    tree = forge.tree()
    put = tree.put_away()
    assert put is not None
    assert set(put.names) == {"salt/top.sls", "salt/new name.sls"}
    assert (forge.path / "salt/top.sls").read_text() == "first\n"
    assert not (forge.path / "salt/new name.sls").exists()
    assert git(forge.path, "show", f"{put.kept}:salt/top.sls") == "edited"
    assert git(forge.path, "show", f"{put.kept}^3:salt/new name.sls") == "new"
    assert tree.put_away() is None
    (forge.path / "salt/top.sls").unlink()
    again = tree.put_away()
    assert again is not None
    assert again.names == ("salt/top.sls",)
    assert len(git(forge.path, "stash", "list").splitlines()) == 2


def test_edits_that_cannot_be_put_away_stay_and_nothing_is_fetched(forge: Forge) -> None:
    (forge.path / "salt/top.sls").write_text("edited\n")
    (forge.path / ".git/index.lock").touch()
    with pytest.raises(FetchError, match=r"index\.lock"):
        forge.tree().put_away()
    assert (forge.path / "salt/top.sls").read_text() == "edited\n"


def test_hooks_of_the_tree_are_not_run(forge: Forge) -> None:
    hooks = forge.path / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-merge", "reference-transaction", "post-checkout"):
        (hooks / name).write_text("#!/bin/sh\ntouch ran\n")
        (hooks / name).chmod(0o755)
    forge.commit("a", "1\n")
    forge.tree().take(str(forge.tree().look().commit))
    assert not (forge.path / "ran").exists()


# --- a disk that is full -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Forge]:
    """A forge whose tree lies on a disk of 4 MB."""
    forge = Forge(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True, timeout=60)
    try:
        git(tmp_path, "clone", "--quiet", str(forge.remote), str(disk / "tree"))
        forge.path = disk / "tree"
        yield forge
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=60)


def filled(forge: Forge, left: int) -> None:
    """Leave `left` bytes of the small disk."""
    status = os.statvfs(forge.path)
    (forge.path.parent / "filler").write_bytes(b"\0" * (status.f_bavail * status.f_frsize - left))


def test_a_full_disk_is_told_before_anything_is_fetched(small: Forge) -> None:
    small.commit("a", "1\n")
    small.refused("The disk is full", spare=16 << 20)


def test_a_disk_that_fills_while_fetching_leaves_the_tree(small: Forge) -> None:
    small.commit("a", os.urandom(400_000).hex())
    filled(small, 64 << 10)
    small.refused("The disk is full")
    (small.path.parent / "filler").unlink()
    assert small.tree().look().commit is not None


def test_a_commit_that_has_no_room_is_not_laid_out(small: Forge) -> None:
    new = small.commit("a", "0" * 2_000_000)
    tree, old = small.tree(), git(small.path, "rev-parse", "HEAD")
    assert tree.look().commit == new
    filled(small, 1 << 20)
    with pytest.raises(FetchError, match="The disk is full"):
        tree.take(new)
    assert (tree.head(), git(small.path, "status", "--porcelain")) == (old, "")


def test_a_disk_that_fills_while_files_are_laid_out_gets_the_old_ones_back(small: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    small.commit("salt/top.sls", "replaced\n")
    new = small.commit("z", "0" * 2_000_000)
    tree, old = small.tree(), git(small.path, "rev-parse", "HEAD")
    assert tree.look().commit == new
    filled(small, 1 << 20)
    # As if the room had gone between the look at the disk and the writing.
    monkeypatch.setattr(Tree, "_need_room", lambda *_: None)
    with pytest.raises(FetchError, match="laid out"):
        tree.take(new)
    assert (tree.head(), git(small.path, "status", "--porcelain")) == (old, "")
    assert (small.path / "salt/top.sls").read_text() == "first\n"


def test_a_droplet_may_follow_another_branch_than_was_cloned(forge: Forge) -> None:
    old = git(forge.path, "rev-parse", "HEAD")
    git(forge.remote, "branch", "production")
    new = forge.commit("salt/top.sls", "second\n")
    following = Tree(forge.path, spare=0, pause=0, branch="production")
    assert following.look().commit is None
    git(forge.remote, "update-ref", "refs/heads/production", new)
    assert following.look().commit == new
    following.take(new)
    assert following.head() == new != old
    forge.commit("salt/top.sls", "third\n")
    assert following.look().commit is None, "it is on main only"


def test_a_tree_that_is_on_no_branch_follows_the_one_that_was_chosen(forge: Forge) -> None:
    git(forge.path, "checkout", "--quiet", "--detach")
    new = forge.commit("salt/top.sls", "second\n")
    assert forge.tree().look().commit is None
    following = Tree(forge.path, spare=0, pause=0, branch="main")
    assert following.look().commit == new
    following.take(new)
    assert following.head() == new


def test_a_branch_that_is_behind_the_droplet_is_told_with_how_to_move_it_on(forge: Forge) -> None:
    git(forge.remote, "branch", "production")
    new = forge.commit("salt/top.sls", "second\n")
    forge.tree().take(forge.tree().look().commit or "")
    with pytest.raises(FetchError) as told:
        Tree(forge.path, spare=0, pause=0, branch="production").look()
    assert f"git push origin {new}:refs/heads/production" in str(told.value)
    assert git(forge.path, "rev-parse", "HEAD") == new


def test_a_chosen_branch_that_is_not_there_is_told(forge: Forge) -> None:
    with pytest.raises(FetchError, match="refs/heads/production is still there"):
        Tree(forge.path, spare=0, pause=0, branch="production").look()
