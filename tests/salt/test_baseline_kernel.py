"""Kernel parameters are compared, repaired and, in a container, left to the host."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from gigglekit.kernel import mounts, parameters

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small /proc/sys."""
    values = {
        "kernel/kptr_restrict": "0\n",
        "net/ipv4/tcp_syncookies": "1\n",
        "net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
        "net/ipv4/conf/all/rp_filter": "0\n",
        "net/ipv4/conf/eth0/rp_filter": "1\n",
        "vm/swappiness": "60\n",
    }
    for key, value in values.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    monkeypatch.setattr(parameters, "PROC_SYS", tmp_path)
    monkeypatch.setattr(parameters.compare, "__kwdefaults__", {"root": tmp_path})
    return tmp_path


def load(test: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_state", REPOSITORY / "_states" / "kernel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    return module


def test_what_somebody_set_by_hand_is_put_right_and_named(proc: Path) -> None:
    wanted = {"kernel.kptr_restrict": 2, "net.ipv4.tcp_syncookies": 1}
    ret = load(test=False).parameters("hardened", wanted)
    assert ret["result"] is True
    assert ret["changes"] == {"kernel.kptr_restrict": {"old": "0", "new": "2"}}
    assert (proc / "kernel/kptr_restrict").read_text() == "2"
    assert load(test=False).parameters("hardened", wanted)["changes"] == {}


def test_looking_changes_nothing(proc: Path) -> None:
    ret = load(test=True).parameters("hardened", {"kernel.kptr_restrict": 2})
    assert ret["result"] is None
    assert ret["changes"] == {"kernel.kptr_restrict": {"old": "0", "new": "2"}}
    assert (proc / "kernel/kptr_restrict").read_text() == "0\n"


def test_a_container_never_touches_what_is_the_hosts(proc: Path) -> None:
    wanted = {"kernel.kptr_restrict": 2, "vm.swappiness": 10, "net.ipv4.conf.all.rp_filter": 1}
    ret = load(test=False).parameters("hardened", wanted, own_kernel=False)
    assert ret["result"] is True
    assert list(ret["changes"]) == ["net.ipv4.conf.all.rp_filter"]
    assert "takes effect on a real droplet" in ret["comment"]
    assert (proc / "kernel/kptr_restrict").read_text() == "0\n"
    assert (proc / "vm/swappiness").read_text() == "60\n"


def test_a_star_stands_for_every_interface(proc: Path) -> None:
    found = parameters.compare({"net.ipv4.conf.*.rp_filter": 1}, own_kernel=True)
    assert [difference.key for difference in found.repairable] == ["net.ipv4.conf.all.rp_filter"]


def test_several_numbers_compare_whatever_separates_them(proc: Path) -> None:
    found = parameters.compare({"net.ipv4.tcp_rmem": "4096 131072 6291456"}, own_kernel=True)
    assert found.repairable == ()


def test_a_parameter_this_kernel_lacks_is_named_and_no_failure(proc: Path) -> None:
    ret = load(test=False).parameters("hardened", {"kernel.yama.ptrace_scope": 1, "net.ipv6.conf.*.forwarding": 0})
    assert ret["result"] is True
    assert "kernel.yama.ptrace_scope, net.ipv6.conf.*.forwarding" in ret["comment"]


@pytest.mark.parametrize("key", ["", "net..ipv4", "../../etc/passwd", "net.*.conf.*.x", "kernel/kptr_restrict"])
def test_a_misspelt_key_is_refused_with_a_remedy(proc: Path, key: str) -> None:
    ret = load(test=False).parameters("hardened", {key: 1})
    assert ret["result"] is False
    assert "dotted names" in ret["comment"]


def test_a_refusal_of_the_kernel_is_a_failure_that_says_what_to_do(proc: Path) -> None:
    difference = parameters.Difference("kernel.no", proc / "kernel", "0", "1")
    with pytest.raises(parameters.ParameterError, match=r"kernel.no = 1 .* or reboot"):
        parameters.put_in_force(difference)


def test_forwarding_comes_first_since_it_resets_what_follows() -> None:
    keys = list(yaml.safe_load((REPOSITORY / "salt" / "hardening" / "kernel.yaml").read_text()))
    assert ["forwarding" in key for key in keys[:2]] == [True, True]
    assert not any("forwarding" in key for key in keys[2:])


@pytest.mark.parametrize(("system", "least"), [("Debian-12", 3), ("Debian-13", 3), ("Ubuntu-22.04", 4), ("Ubuntu-24.04", 4)])
def test_no_kernel_becomes_laxer_with_performance_events_than_it_came(system: str, least: int) -> None:
    # Ubuntu's kernels come with 4 (CONFIG_SECURITY_PERF_EVENTS_RESTRICT), Debian's with 3.
    parameters_of_all = yaml.safe_load((REPOSITORY / "salt" / "hardening" / "kernel.yaml").read_text())
    systems = yaml.safe_load((REPOSITORY / "salt" / "osmap.yaml").read_text())
    assert "kernel.perf_event_paranoid" not in parameters_of_all
    assert systems[system]["perf_event_paranoid"] >= least


def test_a_mount_lacks_what_its_topmost_layer_lacks(tmp_path: Path) -> None:
    listing = tmp_path / "mounts"
    listing.write_text("tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec 0 0\ntmpfs /dev/shm tmpfs rw,nosuid 0 0\n")
    assert mounts.missing("/dev/shm", ["nosuid", "nodev", "noexec"], mounts=listing) == ["nodev", "noexec"]
    with pytest.raises(mounts.MountError, match="Nothing is mounted on /nowhere"):
        mounts.missing("/nowhere", ["nosuid"], mounts=listing)


def test_remounting_is_announced_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    lacking = ["noexec"]
    monkeypatch.setattr(mounts, "missing", lambda *_args: list(lacking))
    monkeypatch.setattr(mounts, "_run", ran.append)
    looked = load(test=True).mounted_with("/dev/shm", ["noexec"])
    assert (looked["result"], ran) == (None, [])
    done = load(test=False).mounted_with("/dev/shm", ["noexec"])
    assert done["changes"] == looked["changes"] == {"/dev/shm": {"old": "without noexec", "new": "noexec"}}
    assert ran == [["mount", "-o", "remount,noexec", "/dev/shm"]]
    lacking.clear()
    assert load(test=False).mounted_with("/dev/shm", ["noexec"])["changes"] == {}
