"""Feeds a parser with bytes that nobody meant to write, steered by which lines they reach.

Inputs that reach a line, or a step from one line to another, that none reached before are kept and changed further. All that is random
comes from a number that is given: the same number and the same code give the same inputs.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

REGRESSIONS = Path(__file__).parent / "regressions"
LONGEST = 1 << 17
_NUMBERS = tuple(number.to_bytes(size, "big") for size in (1, 2, 4, 8) for number in (0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
_TEXTS = (b'"', b"{", b"[", b"]}", b"null", b"-1", b"1e999", b"NaN", b"../", b"/", b"\\u0000", b"\xff\xfe", b"\r\n", b": ")
_WORDS = (*_NUMBERS, *_TEXTS)


@dataclass(frozen=True)
class Target:
    """A parser of bytes that somebody else wrote.

    Arguments:
        name: as `run` takes it.
        function: takes the bytes. What it returns does not matter; it fails by itself if it was taken in.
        allowed: the errors by which it may refuse them. Any other is a finding.
        seeds: inputs to begin with, among them some that are right.
    """

    name: str
    function: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def all_seeds(self) -> tuple[bytes, ...]:
        """Return the seeds, and what was found before: once repaired, it stays so."""
        return (*self.seeds, *(path.read_bytes() for path in sorted((REGRESSIONS / self.name).glob("*"))))


@dataclass(frozen=True)
class Finding:
    """An input for which a parser broke its word.

    Arguments:
        data: the input.
        error: what came instead of an allowed error.
    """

    data: bytes
    error: BaseException

    @property
    def name(self) -> str:
        """Return a file name, the same for the same input."""
        return hashlib.sha256(self.data).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What a run saw.

    Arguments:
        inputs: how many were tried.
        accepted: how many were taken as right.
        steps: how many different steps from line to line were reached in gigglekit.
        finding: the first, or None.
    """

    inputs: int
    accepted: int
    steps: int
    finding: Finding | None


def attempt(target: Target, data: bytes) -> tuple[bool, Finding | None]:
    """Try one input; return whether it was accepted, and the finding if it is one."""
    try:
        target.function(data)
    except target.allowed:
        return False, None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 — whatever else comes is what is looked for
        return False, Finding(data, error)
    return True, None


def fuzz(target: Target, seed: int = 0, inputs: int | None = None, seconds: float | None = None) -> Outcome:
    """Try inputs until a finding, or so many inputs, or so many seconds.

    Arguments:
        target: the parser.
        seed: from which everything random comes.
        inputs: at most so many; the seeds count.
        seconds: no new input after so long. With this two runs may differ in how far they get.
    """
    # Not for secrets: the same each time is what is wanted.
    rng = random.Random(f"{target.name} {seed}")  # noqa: S311
    corpus: list[bytes] = []
    reached: set[tuple[CodeType, int, int]] = set()
    end = None if seconds is None else time.monotonic() + seconds
    tried = accepted = 0
    for data in _inputs(target.all_seeds(), corpus, rng):
        if (inputs is not None and tried >= inputs) or (end is not None and time.monotonic() >= end):
            break
        steps: set[tuple[CodeType, int, int]] = set()
        before = sys.gettrace()
        sys.settrace(_tracer(steps))
        try:
            taken, finding = attempt(target, data)
        finally:
            sys.settrace(before)
        tried += 1
        accepted += taken
        if finding is not None:
            return Outcome(tried, accepted, len(reached | steps), finding)
        if not steps <= reached:
            reached |= steps
            corpus.append(data)
    return Outcome(tried, accepted, len(reached), None)


def _tracer(steps: set[tuple[CodeType, int, int]]) -> Callable[[FrameType, str, Any], Any]:
    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if "gigglekit" not in code.co_filename:
            return None
        line = 0

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal line
            if event == "line":
                steps.add((code, line, frame.f_lineno))
                line = frame.f_lineno
            return step

        return step

    return enter


def _inputs(seeds: tuple[bytes, ...], corpus: list[bytes], rng: random.Random) -> Iterator[bytes]:
    yield from seeds
    yield b""
    while True:
        # What was kept last reached furthest, more often than not.
        data = bytearray(rng.choice(rng.choice((seeds, corpus or seeds, corpus[-4:] or seeds))))
        for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
            data = _change(data, seeds, rng)
        yield bytes(data[:LONGEST])


def _change(data: bytearray, seeds: tuple[bytes, ...], rng: random.Random) -> bytearray:
    # Headers come first and matter most.
    at = rng.randrange(min(len(data), 100) if rng.random() < 0.3 else len(data)) if data else 0
    length = rng.choice((1, 2, 4, 8, 16, 64, 1000))
    kind = rng.randrange(9)
    if kind == 0 and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        data[at] = rng.randrange(256)
    elif kind == 2:
        data[at:at] = rng.randbytes(length)
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        word = rng.choice(_WORDS)
        data[at : at + len(word) * rng.randrange(2)] = word
    elif kind == 6:
        data[at:at] = data[at : at + length] * rng.choice((1, 2, 30))
    elif kind == 7:
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        data[at : at + length] = other[start : start + length]
    elif data:
        # A number in a text, or two bytes, changed a little.
        data[at] = (data[at] + rng.choice((-1, 1, 16, -16))) % 256
    return data
