"""What lies below /opt/salt is what the repository asks for, and whatever happens, what is in force works."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gigglekit.runtime import building
from gigglekit.runtime import home as runtime_home
from gigglekit.runtime.errors import RuntimeProblem
from gigglekit.runtime.home import RECORD, Home
from gigglekit.runtime.upgrading import Wanted, named_bundle

from .killing import calls_of, killed_before
from .runtimes import Runtimes

UTILS = Path(runtime_home.__file__).parents[2]


@pytest.fixture
def there(tmp_path: Path) -> Runtimes:
    return Runtimes(tmp_path)


def current(there: Runtimes) -> str:
    found = there.home.read("current")
    return found.name if found else ""


def test_what_the_lock_file_asks_for_is_installed_once(there: Runtimes) -> None:
    name = there.lock("one\n")
    assert (there.ensure().name, there.works()) == (name, True)
    assert not there.ensure().switched
    assert there.built() == 1


def test_another_lock_file_makes_another_one_beside_it_and_the_one_before_is_kept(there: Runtimes) -> None:
    one = there.lock("one\n")
    there.ensure()
    assert not there.home.is_unproven, "nothing was replaced"
    two = there.lock("two\n")
    done = there.ensure()
    assert (done.name, done.switched, current(there)) == (two, True, two)
    assert there.home.previous is not None
    assert (there.home.previous.name, there.home.is_unproven) == (one, True)
    three = there.lock("three\n")
    there.ensure()
    assert there.names() == {two, three}


def test_going_back_to_an_earlier_lock_file_builds_nothing(there: Runtimes) -> None:
    one = there.lock("one\n")
    there.ensure()
    there.lock("two\n")
    there.ensure()
    there.lock("one\n")
    assert (there.ensure().name, there.built()) == (one, 2)


@pytest.mark.parametrize(
    ("broken", "why"), [("dead\n", "does not start: no module named salt"), ("bad\n", "release-live"), ("mute\n", "render")]
)
def test_one_that_does_not_work_is_refused_and_what_was_there_stays(there: Runtimes, broken: str, why: str) -> None:
    one = there.lock("one\n")
    there.ensure()
    name = there.lock(broken)
    for built in (2, 2):
        with pytest.raises(RuntimeProblem, match=why) as told:
            there.ensure()
        assert f"{one} stays in force" in str(told.value)
        assert "always" not in str(told.value), "that state fails with the old one too"
        assert (current(there), there.works(), there.built()) == (one, True, built), "it is not built again at every converge"
    assert there.names() == {one}
    with pytest.raises(RuntimeProblem):
        there.ensure(again=True)
    assert there.built() == 3
    assert there.home.refusal(name)


def test_a_refusal_ends_after_a_day(there: Runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    there.home.folder.mkdir()
    there.home.refuse("0" * 16, "why")
    assert there.home.refusal("0" * 16) == "why"
    monkeypatch.setattr(runtime_home, "REFUSED_SECONDS", 0.0)
    assert there.home.refusal("0" * 16) == ""


def test_where_nothing_can_be_rendered_nobody_is_blamed(there: Runtimes) -> None:
    there.lock("mute one\n")
    there.configuration.unlink()
    one = there.ensure().name
    there.configuration.touch()
    two = there.lock("mute two\n")
    done = there.ensure()
    assert (done.name, done.switched, there.home.refusal(two)) == (one, False, "")
    assert "neither" in done.note


def test_without_a_network_what_was_there_stays_and_the_next_run_tries_again(there: Runtimes) -> None:
    one = there.lock("one\n")
    there.ensure()
    two = there.lock("two\n")
    there.fail.touch()
    with pytest.raises(RuntimeProblem, match="no network"):
        there.ensure()
    assert (current(there), there.names()) == (one, {one})
    there.fail.unlink()
    assert there.ensure().name == two


def test_killed_anywhere_during_an_upgrade_what_is_in_force_works_and_the_next_run_completes_it(there: Runtimes, tmp_path: Path) -> None:
    one = there.lock("one\n")
    there.ensure()
    two = there.lock("two\n")
    untouched = tmp_path / "untouched"
    shutil.copytree(there.home.folder, untouched, symlinks=True)

    def again() -> None:
        shutil.rmtree(there.home.folder)
        shutil.copytree(untouched, there.home.folder, symlinks=True)

    calls = calls_of(there.ensure)
    assert calls > 10
    for call in range(1, calls + 1):
        again()
        assert killed_before(call, there.ensure)
        where = f"killed before call {call} of {calls}"
        assert there.works(), where
        assert current(there) in (one, two), where
        there.ensure()
        assert (current(there), there.works()) == (two, True), where


def test_an_earlier_one_that_has_no_record_counts_only_while_it_is_in_force(there: Runtimes) -> None:
    name = there.lock("one\n")
    there.ensure()
    (there.home.folder / name / RECORD).unlink()
    assert not there.ensure().switched
    assert there.built() == 1
    two = there.lock("two\n")
    assert there.ensure().name == two


def test_one_that_broke_is_mended_by_bootstrap(there: Runtimes) -> None:
    name = there.lock("one\n")
    there.ensure()
    (there.home.folder / name / "bin/salt-call").unlink()
    there.ensure(again=True)
    assert there.works()


def test_back_is_the_one_before(there: Runtimes) -> None:
    one = there.lock("one\n")
    there.ensure()
    with pytest.raises(RuntimeProblem, match="no earlier version"):
        there.upgrade().back()
    there.lock("two\n")
    there.ensure()
    assert (there.upgrade().back().name, current(there), there.home.is_unproven) == (one, one, False)


def test_what_a_program_runs_from_is_not_removed(there: Runtimes) -> None:
    one = there.lock("one\n")
    there.ensure()
    program = there.home.folder / one / "bin/sleep"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "300"]) as running:
        try:
            for text in ("two\n", "three\n"):
                there.lock(text)
                there.ensure()
            assert one in there.names()
        finally:
            running.kill()
    there.lock("four\n")
    there.ensure()
    assert one not in there.names()


def test_a_bundle_takes_its_place_and_stays_while_it_fits_the_lock_file(there: Runtimes) -> None:
    there.lock("one\n")
    wanted = there.bundle("one\n")
    done = there.ensure(wanted)
    assert (done.name, done.note, there.works(), there.built()) == (f"bundle-{wanted.digest[:16]}", "", True, 0)
    assert not there.ensure().switched
    two = there.lock("two\n")
    assert there.ensure().name == two
    there.lock("one\n")
    assert (there.ensure().name, there.built()) == (done.name, 1), "it is there, and fits"


def test_a_bundle_that_was_built_anew_from_the_same_lock_file_takes_the_place_of_the_old_one(there: Runtimes) -> None:
    there.lock("one\n")
    old, new = there.bundle("one\n"), there.bundle("one \n", "one\n")
    there.ensure(old)
    done = there.ensure(new)
    assert (done.name, done.switched, there.built()) == (f"bundle-{new.digest[:16]}", True, 0)


def test_a_bundle_with_another_sum_is_not_unpacked(there: Runtimes) -> None:
    there.lock("one\n")
    one = there.ensure().name
    wanted = there.bundle("one\n")
    with Path(wanted.source).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RuntimeProblem, match="not the one that was meant"):
        there.ensure(wanted, again=True, only_bundle=True)
    assert (there.names(), current(there)) == ({one}, one)


@pytest.mark.parametrize(
    ("text", "made_from", "why"), [("dead\n", "one\n", "needs glibc 9.99"), ("one\n", "other\n", "another requirements")]
)
def test_a_bundle_that_does_not_fit_here_is_told_and_the_lock_file_is_taken(there: Runtimes, text: str, made_from: str, why: str) -> None:
    one = there.lock("one\n")
    wanted = there.bundle(text, made_from)
    alone = there.ensure(wanted, again=True, only_bundle=True)
    assert (alone.name, alone.switched) == ("", False)
    done = there.ensure(wanted, again=True)
    assert (done.name, there.names()) == (one, {one})
    for note in (alone.note, done.note):
        assert why in note
        assert "from the lock file instead" in note
        assert "\n" not in note


@pytest.mark.parametrize("again", [False, True])
def test_a_bundle_in_force_that_the_tree_still_names_does_not_keep_a_new_lock_file_away(there: Runtimes, again: bool) -> None:
    there.lock("one\n")
    wanted = there.bundle("one\n")
    bundled = there.ensure(wanted).name
    two = there.lock("two\n")
    there.fail.touch()
    with pytest.raises(RuntimeProblem, match="no network"):
        there.ensure(wanted, again=again)
    assert (current(there), there.works()) == (bundled, True), "what is in force is never built anew in its place"
    there.fail.unlink()
    done = there.ensure(wanted, again=again)
    assert (done.name, current(there), there.works()) == (two, two, True)
    assert "another requirements" in done.note


def test_what_is_no_bundle_is_told(there: Runtimes, tmp_path: Path) -> None:
    there.lock("one\n")
    wanted = there.bundle("one\n")
    (tmp_path / "nothing").mkdir()
    subprocess.run(["tar", "-czf", wanted.source, "-C", tmp_path / "nothing", "."], check=True)
    digest = hashlib.sha256(Path(wanted.source).read_bytes()).hexdigest()
    with pytest.raises(RuntimeProblem, match="is no bundle"):
        there.ensure(Wanted(wanted.source, digest), again=True)
    with pytest.raises(RuntimeProblem, match="cannot be read"):
        there.ensure(Wanted("/nowhere", digest), again=True)


def test_a_tree_names_a_bundle_for_each_machine(there: Runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    file = there.tree / "requirements/bundles.txt"
    assert named_bundle(there.tree) is None
    file.write_text(f"# what they are\nx86_64 {'a' * 64} https://x.example/one\naarch64  {'b' * 64}  https://x.example/two\n")
    assert named_bundle(there.tree) == Wanted("https://x.example/two", "b" * 64)


def test_a_bundle_that_the_tree_names_and_that_cannot_be_fetched_costs_nothing_but_a_note(
    there: Runtimes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    one = there.lock("one\n")
    (there.tree / "requirements/bundles.txt").write_text(f"x86_64 {'a' * 64} http://127.0.0.1:9/bundle\n")
    done = there.ensure()
    assert (done.name, there.works()) == (one, True)
    assert "cannot be fetched" in done.note


@pytest.mark.parametrize(
    ("made_from", "damage", "why"), [("one\n", b"\0", "not the one that was meant"), ("other\n", b"", "another requirements")]
)
def test_a_wrong_bundle_that_the_tree_names_is_fetched_once_a_day_or_when_it_is_named_anew(
    there: Runtimes, monkeypatch: pytest.MonkeyPatch, made_from: str, damage: bytes, why: str
) -> None:
    one = there.lock("one\n")
    wanted = there.bundle("one\n", made_from)
    with Path(wanted.source).open("ab") as file:
        file.write(damage)
    fetched: list[str] = []
    monkeypatch.setattr(building, "_archive", _counted(building._archive, fetched))
    for _ in range(3):
        done = there.ensure(wanted)
        assert (done.name, there.names(), len(fetched)) == (one, {one}, 1)
        assert why in done.note
        assert "from the lock file instead" in done.note
    moved = shutil.copy(wanted.source, there.folder / "elsewhere")
    there.ensure(Wanted(str(moved), wanted.digest))
    assert len(fetched) == 2, "another address"
    with monkeypatch.context() as later:
        later.setattr(runtime_home, "REFUSED_SECONDS", 0.0)
        there.ensure(wanted)
    assert len(fetched) == 3, "a day later"
    right = there.bundle("one\n")
    assert there.ensure(right).name == f"bundle-{right.digest[:16]}"


def test_a_bundle_that_could_not_be_fetched_is_tried_at_once(there: Runtimes) -> None:
    there.lock("one\n")
    wanted = there.bundle("one\n")
    away = Path(wanted.source).rename(there.folder / "away")
    assert "cannot be read" in there.ensure(wanted).note
    away.rename(wanted.source)
    assert there.ensure(wanted).name == f"bundle-{wanted.digest[:16]}"


def _counted(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def counted(home: Home, source: str) -> Any:
        calls.append(source)
        return function(home, source)

    return counted


def test_what_bootstrap_and_the_converge_are_told_is_one_object(there: Runtimes) -> None:
    there.lock("one\n")
    name = there.ensure().name

    def told(*arguments: str) -> tuple[int, dict[str, object]]:
        command = [sys.executable, "-m", "gigglekit.runtime", "--home", str(there.home.folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={"PYTHONPATH": str(UTILS)})
        return done.returncode, json.loads(done.stdout)

    assert told("proven") == (0, {"name": name, "switched": False, "note": "", "problem": ""})
    code, said = told("ensure", "--tree", str(there.tree), "--bundle", "/nowhere", "--sha256", "short")
    assert (code, said["name"], said["switched"]) == (1, name, False)
    assert "not 64 hexadecimal digits" in str(said["problem"])
    code, said = told("back")
    assert (code, "no earlier version" in str(said["problem"])) == (1, True)
    assert told("refuse", "0" * 16, "why")[0] == 0
    assert there.home.refusal("0" * 16) == "why"
