"""The page shows what is and what was, whoever wrote the records, and asks nobody for anything."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import calendar_of_runs, facts, page, recent, status, svg
from gigglekit.health.judge.condition import Memory
from gigglekit.health.places import Places

from tests.unit.status_droplet import DAY, NOW, WANTED, all_run, at, healthy, mounted, spoil, write

HOSTILE = "</title></style><script src=//evil.example/x.js>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00\x1b\ud800\uffff]]>"


def made(places: Places, wanted: Any = WANTED) -> str:
    found = status.collect(places, wanted, now=NOW, ask_systemd=all_run)
    return page.render(found, calendar_of_runs.days(facts.gather(places, wanted, now=NOW, ask_systemd=all_run).runs, NOW), wanted)


def parsed(text: str) -> ET.Element:
    assert text.startswith("<!DOCTYPE html>\n")
    return ET.fromstring(text.split("\n", 1)[1])  # noqa: S314 (its own)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    mounted(monkeypatch)
    return healthy(tmp_path)


def only_what_is_its_own(text: str) -> ET.Element:
    """Insist that the page is well formed, runs nothing, and names nothing outside itself."""
    tree = parsed(text)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "p", "b", "small", "time", "ul", "li", "div",
               "figure", "figcaption", "span", "svg", "desc", "g", "rect", "path", "circle", "text", "details", "summary", "table", "thead",
               "tbody", "tr", "th", "td"}  # fmt: skip
    for element in tree.iter():
        assert element.tag in allowed
        for name in element.attrib:
            assert name not in ("href", "src", "style", "action", "srcset"), name
            assert not name.startswith("on")
    text.encode("utf-8")
    assert not re.search(r"url\(|@import|https?:", "".join(tree.itertext()).replace("evil.example", ""))
    return tree


def test_it_is_well_formed_and_refers_to_nothing_outside(places: Places) -> None:
    tree = only_what_is_its_own(made(places))
    assert tree.attrib["lang"] == "en"
    policy = next(meta.attrib["content"] for meta in tree.iter("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert next(tree.iter("style")).text == page._STYLE
    assert "prefers-color-scheme: dark" in page._STYLE
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    drawings = list(tree.iter("svg"))
    assert len(drawings) == 6
    for drawing in drawings:
        assert drawing.attrib["role"] == "img"
        assert all(name in ids for name in drawing.attrib["aria-labelledby"].split())
        assert (drawing.findtext("desc") or "").strip()
    assert len(next(iter(tree.iter("tbody")))) == 90


def test_a_page_of_staging_says_so_where_a_person_looks(places: Places) -> None:
    staging = parsed(made(places, dataclasses.replace(WANTED, environment="staging")))
    assert (staging.findtext(".//title") or "").startswith("✓ staging giggles.example.test")
    assert "staging" not in (parsed(made(places)).findtext(".//title") or "")
    seen = dataclasses.replace(WANTED, environment="staging")
    places.page.parent.mkdir(parents=True, exist_ok=True)
    page.write(places, facts.gather(places, seen, now=NOW, ask_systemd=all_run), seen, Memory())
    assert "This is staging." in (parsed(places.page.read_text()).findtext(".//h1") or "")


def test_hostile_records_are_shown_as_what_they_are(places: Places) -> None:
    spoil(places, "nightly", 0, verdict=HOSTILE[:40], reasons=[HOSTILE], result=HOSTILE)
    spoil(places, "nightly", 1, verdict=HOSTILE, seconds=HOSTILE, peak_mb=HOSTILE)
    spoil(places, "nightly", 2, verdict="killed", seconds=1e308, peak_mb=-5, users_completed=float("nan"))
    spoil(places, "backup", 0, ok=False, reason=HOSTILE)
    spoil(places, "converge", 0, ok=False, failures=[{"id": HOSTILE}, 7, None], drift=[{"id": HOSTILE}], commit=HOSTILE)
    spoil(places, "disk", 0, root_percent=10**400, uploads_percent="<b>")
    text = made(places, dataclasses.replace(WANTED, domain=HOSTILE))
    tree = only_what_is_its_own(text)
    assert "<script" not in text
    assert "<img" not in text
    assert "alert(1)" in "".join(tree.itertext())


@pytest.mark.parametrize("content", [None, b"", b"{\n" * 500, os.urandom(300_000), b'{"time": "2999-01-01T00:00:00Z"}\n' * 50])
def test_whatever_lies_in_the_records_there_is_a_page(places: Places, content: bytes | None) -> None:
    for path in places.records.glob("*.jsonl"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    tree = only_what_is_its_own(made(places))
    assert "Not everything is all right" in "".join(tree.itertext())


def test_what_went_wrong_is_marked_and_told_in_words(places: Places) -> None:
    before = made(places).count('class="mark"')
    spoil(places, "nightly", 4, verdict="killed", peak_mb=1700)
    spoil(places, "backup", 4, ok=False, reason="no answer")
    spoil(places, "converge", 200, ok=False)
    text = made(places)
    assert text.count('class="mark"') == before + 4
    assert f"{at(NOW - 4 * DAY)[:10]}: killed, 12 users done" in text
    assert "1 failed" in text
    spoil(places, "converge", 500, drift=[{"id": "a"}])
    assert made(places).count("mark note") == text.count("mark note") + 1


def test_the_worst_of_a_day_counts(places: Places) -> None:
    path = places.records / "nightly.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write(places, "nightly", [*lines[:-1], {**lines[-1], "verdict": "failed"}, lines[-1]])
    assert f"{at(NOW)[:10]}: failed" in made(places)


def test_five_years_of_records_make_no_larger_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, real, sizes, lines = [0], recent.json.loads, [], []

    def loads(text: bytes) -> Any:
        counted[0] += 1
        return real(text)

    for days in (90, 5 * 365):
        places = healthy(tmp_path / str(days), days=days)
        days_of = []
        with monkeypatch.context() as patched:
            patched.setattr(recent.json, "loads", loads)
            counted[0] = 0
            days_of = calendar_of_runs.days(facts.gather(places, WANTED, now=NOW, ask_systemd=all_run).runs, NOW)
            lines.append(counted[0])
        assert len(days_of) == 90
        sizes.append(len(made(places)))
    assert lines[1] <= lines[0] + 20 < 5500
    assert sizes[1] < sizes[0] + 2000 < 200_000


def test_it_is_written_in_one_step_and_disk_and_changes_are_noted(places: Places) -> None:
    def written(now: float) -> status.Status:
        page.note_disk(places, now)
        return page.write(places, facts.gather(places, WANTED, now=now, ask_systemd=all_run), WANTED, Memory())

    places.page.parent.mkdir()
    (places.records / "disk.jsonl").unlink()
    wrong = written(NOW)
    for _ in range(3):
        written(NOW + 600)
    parsed(places.page.read_text(encoding="utf-8"))
    assert places.page.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(places.page.parent) == ["index.html"]
    assert len((places.records / "disk.jsonl").read_text().splitlines()) == 1
    noted = [json.loads(line) for line in (places.records / "status.jsonl").read_text().splitlines()]
    assert [one["all_right"] for one in noted] == [wrong.all_right]
    written(NOW + 7 * 3600)
    assert len((places.records / "disk.jsonl").read_text().splitlines()) == 2


def test_lines_have_gaps_and_a_scale_has_round_figures() -> None:
    chart = svg.Chart("a", "A", "B", ["1", "2", "3", "4"])
    drawn = svg.lines(chart, [svg.Line("x", "first", [1.0, None, 3.0, 4.0])], unit="")
    assert drawn.count(f"M{svg._LEFT} ") >= 1
    assert len(re.findall(r"M[\d.]+ [\d.]+L", drawn)) == 2
    assert [svg._ceiling([value]) for value in (0, 1, 3, 11, 1700, 4.5)] == [1, 1, 4, 20, 2000, 5]
    ET.fromstring(drawn)  # noqa: S314 (its own)
