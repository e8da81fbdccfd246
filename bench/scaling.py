#!/usr/bin/env python3
"""Prints what 1,000, 100,000 and 10,000,000 users would need: droplets, hours of a night, requests, storage, dollars a month.

It is arithmetic on one table of assumptions, each with where it comes from, and no forecast. docs/SCALING.md holds what it prints, and
a test compares the two. Change a value in ASSUMPTIONS, run it, and put the output there. Usage: python3 bench/scaling.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KINDS = ("measured", "contract", "choice", "price", "guess")
CASES = ("low", "likely", "high")
USERS = (1_000, 100_000, 10_000_000)
GB, TB = 10**9, 10**12
NIGHTS_A_MONTH, NIGHTS_A_YEAR = 365 / 12, 365


@dataclass(frozen=True)
class Assumption:
    """Something the arithmetic begins with.

    Arguments:
        key: name in the formulas.
        what: in words, with its unit.
        low, likely, high: the cheapest value, the one that is believed, the dearest.
        kind: one of `KINDS`.
        source: which measurement, part of the contract, setting or page.
    """

    key: str
    what: str
    low: float
    likely: float
    high: float
    kind: str
    source: str


def fixed(key: str, what: str, value: float, kind: str, source: str) -> Assumption:
    """Return an assumption without a range."""
    return Assumption(key, what, value, value, value, kind, source)


ASSUMPTIONS = (
    Assumption("active", "share of the users who have new audio on a night", 0.3, 0.6, 1.0, "guess", "count them: giggles.nightly"),
    Assumption("seconds", "seconds of the nightly job for one of them", 60, 240, 600, "guess",
               "nobody has measured the real app here; giggles.nightly tells yours, seconds divided by users"),
    Assumption("clips", "clips found for one of them", 5, 20, 60, "guess", "giggles.nightly tells yours"),
    fixed("window", "hours that a night may take", 3, "choice", "nightly:timeout_hours"),
    fixed("clip_bytes", "bytes of a clip", 128_044, "contract", "4 s of 16-bit mono at 16 kHz, and a header of 44 bytes"),
    fixed("vault_bytes", "bytes on disk of a user's empty vault", 12_400, "measured", "bench/limits"),
    fixed("unlock_ms", "milliseconds of processor to unlock one vault at a start", 0.1, "measured", "bench/limits"),
    Assumption("clip_us", "microseconds of processor to see that a stored clip has not changed", 10, 15, 30, "measured", "bench/sync"),
    Assumption("section_bytes", "bytes of one snapshot for each clip", 40, 50, 100, "measured", "bench/limits"),
    fixed("pack_bytes", "bytes of a full pack", 16 << 20, "choice", "docs/FORMAT.md"),
    fixed("small_packs", "packs of a user that are not full", 8, "choice", "what a prune leaves"),
    fixed("night_requests", "requests of a droplet's backup beside one for each user with new clips", 8, "measured",
          "bench/sync, and the dump"),
    fixed("deliveries", "requests each of upload, download and class C for a clip that another droplet made", 2, "choice",
          "gigglekit/delivery: a parcel and its receipt, each written, read and erased once"),
    fixed("snapshots", "snapshots that are kept", 22, "choice", "backup:keep, 14 + 5 + 3"),
    fixed("dumps", "dumps that are kept", 30, "choice", "backup:keep_dumps_days"),
    Assumption("row_bytes", "bytes in the database for each clip, indexes included", 300, 500, 1000, "guess", "ask the database"),
    fixed("dump_share", "size of a dump beside its database", 0.3, "guess", "pg_dump compresses, and leaves out indexes"),
    Assumption("requests", "requests to the app for each user and day", 10, 30, 100, "guess", "count them: /var/log/nginx"),
    fixed("busiest", "share of a day's requests in its busiest hour", 0.15, "guess", "people sleep"),
    Assumption("request_ms", "milliseconds of processor for one", 1.5, 15, 50, "guess",
               "the sample app needs 1.3 (bench/requests); the real one asks Supabase as well"),
    fixed("busy", "how busy the app's processor may be in that hour", 0.7, "choice", "above it, requests queue"),
    fixed("local_gb", "GB for clips on a droplet's own disk", 40, "choice", "60 GB, less the system, releases and swap"),
    fixed("volume_tb", "TB that one droplet can hold on a volume", 16 * 1.0995 * 0.85, "price",
          "16 TiB (docs.digitalocean.com, reference of volumes, 2025-10), 85 % full"),
    fixed("droplet_usd", "dollars a month for a droplet, 2 processors and 2 GB", 18, "price",
          "list of July 2022; no newer one was found: www.digitalocean.com/pricing/droplets"),
    fixed("volume_usd", "dollars a month for a GB of volume", 0.10, "price",
          "from memory, not looked up: www.digitalocean.com/pricing/volumes"),
    fixed("bucket_usd", "dollars a month for a TB at Backblaze B2", 6, "price",
          "leanopstech.com/blog/backblaze-b2-pricing-2026, April 2026"),
    fixed("list_usd", "dollars for 1,000 requests of class C, 2,500 a day free", 0.004, "price",
          "www.backblaze.com/b2/b2-transactions-price.html"),
    fixed("download_usd", "dollars for 1,000 downloads (class B), 2,500 a day free", 0.0004, "price", "as above"),
    fixed("supabase_usd", "dollars a month for Supabase Pro, without a larger machine", 25, "price",
          "supabase.com/pricing, as quoted in 2026"),
    fixed("database_usd", "dollars a month for a GB of database beyond 8", 0.125, "price", "Supabase's documentation, billing"),
    fixed("member_usd", "dollars a month for each user beyond 100,000", 0.00325, "price", "Supabase's documentation, billing"),
)  # fmt: skip


def case(name: str) -> dict[str, float]:
    """Return the value of every assumption in one of `CASES`."""
    return {each.key: getattr(each, name) for each in ASSUMPTIONS}


def largest_shard(users: float, droplets: int) -> float:
    """Return how many users the fullest of several droplets is expected to get by rendezvous hashing.

    Each user falls on each droplet with the same chance, so the numbers are binomial; the largest of n of them lies about
    sqrt(2 ln n) standard deviations above the mean, for large n (extreme value theory). It is never less than even.
    """
    even = users / droplets
    if droplets == 1:
        return even
    return min(users, even + math.sqrt(2 * math.log(droplets) * even * (1 - 1 / droplets)))


def fewest(enough: Callable[[int], bool]) -> int:
    """Return the smallest number of droplets that is enough; of more, each has to be enough as well."""
    most = 1
    while not enough(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def needed(users: int, given: Mapping[str, float]) -> dict[str, float]:
    """Return what so many users need, by name.

    Arguments:
        users: all of them.
        given: a value for each assumption.
    """
    active = users * given["active"]
    window_s = given["window"] * 3600
    # A user who takes longer than a whole night would never be done; one for each droplet is the most that helps.
    nightly = fewest(lambda count: count >= active or largest_shard(active, count) * given["seconds"] <= window_s)
    shard = max(1.0, largest_shard(active, nightly))
    clips = active * given["clips"] * NIGHTS_A_YEAR
    clip_bytes = clips * given["clip_bytes"] + users * given["vault_bytes"]
    peak = users * given["requests"] * given["busiest"] / 3600 * given["request_ms"] / 1000
    web = max(math.ceil(peak / given["busy"]), math.ceil(clip_bytes / TB / given["volume_tb"]), 1)
    # One droplet does both, as long as one is enough for either.
    droplets = 1 if nightly == web == 1 else nightly + web
    database = clips * given["row_bytes"]
    bucket = clips * (given["clip_bytes"] + given["section_bytes"] * given["snapshots"]) + database * given["dump_share"] * given["dumps"]
    packs = clips * given["clip_bytes"] / given["pack_bytes"] + users * given["small_packs"]
    delivered = active * given["clips"] * given["deliveries"] if droplets > 1 else 0.0
    lists = packs / 1000 + delivered
    found = {
        "active": active,
        "nightly": nightly,
        "nightly_even": max(1, math.ceil(active * given["seconds"] / window_s)),
        "shard": shard,
        "hours": shard * given["seconds"] / 3600,
        "web": web,
        "droplets": droplets,
        "peak": users * given["requests"] * given["busiest"] / 3600,
        "clips": clips,
        "disk_tb": clip_bytes / TB,
        "bucket_tb": bucket / TB,
        "uploads": active + web * given["night_requests"] + delivered,
        "downloads": delivered,
        "lists": lists,
        "backup_minutes": clips / web * given["clip_us"] / 1e6 / 60,
        "unlock_seconds": users / web * given["unlock_ms"] / 1000,
        "database_gb": database / GB,
        "usd_droplets": droplets * given["droplet_usd"],
        "usd_volumes": clip_bytes / GB * given["volume_usd"] if clip_bytes / GB > given["local_gb"] * web else 0.0,
        "usd_bucket": bucket / TB * given["bucket_usd"]
        + NIGHTS_A_MONTH / 1000 * (max(0.0, lists - 2500) * given["list_usd"] + max(0.0, delivered - 2500) * given["download_usd"]),
        "usd_database": given["supabase_usd"]
        + max(0.0, database / GB - 8) * given["database_usd"]
        + max(0, users - 100_000) * given["member_usd"],
    }
    found["usd"] = sum(value for name, value in found.items() if name.startswith("usd_"))
    found["usd_each"] = found["usd"] / users
    return found


def one_droplet(given: Mapping[str, float]) -> dict[str, float]:
    """Return what one droplet carries, by what ends first: users by the night, days until its own disk is full with those, requests."""
    users = math.floor(given["window"] * 3600 / given["seconds"] / given["active"])
    each_day = given["active"] * given["clips"] * given["clip_bytes"]
    return {
        "users": users,
        "days": given["local_gb"] * GB / (users * each_day),
        "peak": given["busy"] / given["request_ms"] * 1000,
        "users_by_requests": given["busy"] / given["request_ms"] * 1000 * 3600 / given["busiest"] / given["requests"],
    }


ROWS = (
    ("active", "users with new audio on a night"),
    ("nightly", "nightly droplets"),
    ("nightly_even", "… if each had the same number of users"),
    ("shard", "users of the fullest of them"),
    ("hours", "hours that its night takes"),
    ("peak", "requests a second in the busiest hour"),
    ("web", "web droplets"),
    ("droplets", "**droplets in all**"),
    ("clips", "clips after a year"),
    ("disk_tb", "TB on the disks of the web droplets then"),
    ("bucket_tb", "TB in the bucket then"),
    ("database_gb", "GB in the database then"),
    ("uploads", "uploads to the bucket each night"),
    ("downloads", "downloads from it"),
    ("lists", "requests of class C (listings, also of what is to be erased)"),
    ("backup_minutes", "processor minutes of a web droplet to see what is new"),
    ("unlock_seconds", "processor seconds of its start to unlock all vaults"),
    ("usd_droplets", "dollars a month: droplets"),
    ("usd_volumes", "… volumes"),
    ("usd_bucket", "… bucket"),
    ("usd_database", "… Supabase"),
    ("usd", "**dollars a month in all, after a year**"),
    ("usd_each", "dollars a month for each user"),
)
ONE = (
    ("users", "users, by the length of a night"),
    ("days", "days until 40 GB are full with so many"),
    ("peak", "requests a second, by the app's processor"),
    ("users_by_requests", "users, by those requests"),
)


def shown(value: float) -> str:
    """Return a number with two digits that say something."""
    if value == 0:
        return "0"
    if value == round(value) and abs(value) < 100:
        return f"{value:.0f}"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    for size, name in ((10**9, "bn"), (10**6, "m"), (10**4, "k")):
        if abs(rounded) >= size:
            unit = 1000 if name == "k" else size
            return f"{rounded / unit:,.{max(0, digits + round(math.log10(unit)))}f} {name}"
    return f"{rounded:,.{max(0, digits)}f}"


def ranged(values: list[float]) -> str:
    """Return the likely value, and in brackets the lowest and the highest if they differ."""
    low, likely, high = map(shown, (min(values), values[1], max(values)))
    return likely if low == likely == high else f"{likely} ({low} – {high})"


def tables() -> str:
    """Return everything that docs/SCALING.md holds of this: assumptions, one droplet, and the three sizes."""
    lines = ["| assumption | low | likely | high | kind | source |", "|---|---|---|---|---|---|"]
    for each in ASSUMPTIONS:
        values = " | ".join(map(plain, (each.low, each.likely, each.high)))
        lines.append(f"| {each.what} | {values} | {each.kind} | {each.source} |")
    lines += ["", "| one droplet carries | likely (range) |", "|---|---|"]
    alone = [one_droplet(case(name)) for name in CASES]
    lines += [f"| {words} | {ranged([each[key] for each in alone])} |" for key, words in ONE]
    lines += ["", f"| likely (range) | {' | '.join(f'{users:,} users' for users in USERS)} |", "|---|" + "---|" * len(USERS)]
    found = {users: [needed(users, case(name)) for name in CASES] for users in USERS}
    lines += [f"| {words} | {' | '.join(ranged([each[key] for each in found[users]]) for users in USERS)} |" for key, words in ROWS]
    return "\n".join(lines) + "\n"


def plain(value: float) -> str:
    """Return an assumption's value as it is written."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


if __name__ == "__main__":
    sys.stdout.write(tables())
