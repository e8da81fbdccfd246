"""Whoever enters a trial's machine is counted among its visitors, whatever the machine's systemd does with their group meanwhile."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "trial"))

from machinery import cgroups, entering


class Group:
    """A group that is removed so many times just before it is joined; opened before that, or found after it."""

    def __init__(self, times: int, number: int) -> None:
        self.left, self.number, self.tried, self.joined = times, number, 0, ""

    def __truediv__(self, name: str) -> Group:
        assert name == "cgroup.procs"
        return self

    def write_text(self, text: str) -> None:
        self.tried += 1
        if self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))
        self.joined = text


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENOENT])
@pytest.mark.parametrize("times", [0, 1, 5])
def test_a_group_that_is_removed_while_it_is_joined_is_joined_again(monkeypatch: pytest.MonkeyPatch, times: int, number: int) -> None:
    group = Group(times, number)
    monkeypatch.setattr(cgroups, "beside", lambda _: [group])
    entering.join(1)
    assert (group.joined, group.tried) == ("0", times + 1)


@pytest.mark.parametrize(("number", "most"), [(errno.ENODEV, 100), (errno.ENOENT, 100), (errno.EACCES, 1)])
def test_what_cannot_be_joined_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch, number: int, most: int) -> None:
    group = Group(1000, number)
    monkeypatch.setattr(cgroups, "beside", lambda _: [group])
    with pytest.raises(OSError, match=os.strerror(number)):
        entering.join(1)
    assert 1 <= group.tried <= most
