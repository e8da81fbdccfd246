"""Why Salt's own states fail on a server like this, by the words of those who say so, and what to do about each cause."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A cause that is known.

    Attributes:
        pattern: regular expression for the words by which it is known.
        paragraph: what happened, why, and what to do; the names in braces are those of `facts.Facts`.
    """

    pattern: str
    paragraph: str

    def is_behind(self, said: str) -> bool:
        """Tell whether what a failed state said names this cause."""
        return re.search(self.pattern, said) is not None


_AGAIN = "run `sudo salt-call state.apply`"
_NOT_FETCHED = r"Failed to fetch [^\n]*"

# The first that fits is taken: a full disk also breaks off dpkg, and a server that cannot be reached also leaves a package
# unknown.
CAUSES: tuple[Cause, ...] = (
    Cause(
        r"No space left on device|\[Errno 28\]|don't have enough free space in",
        "{states} failed, since there is too little room on the disk: {room}. What takes it is shown by {fillers}; on `/`, "
        "`sudo apt-get clean` and `sudo journalctl --vacuum-size=100M` free some at once. What could not be written is as it was, "
        f"and what runs goes on. With room again, {_AGAIN}.",
    ),
    Cause(
        r"Disk quota exceeded|\[Errno 122\]",
        "{states} failed, since a quota limits what may be written to {disks}, and it is used up. `sudo repquota -a` shows the "
        f"quotas; remove what is not needed or raise the quota with `sudo edquota root`, then {_AGAIN}.",
    ),
    Cause(
        r"Read-only file system|\[Errno 30\]|read only lock file",
        "{states} failed, since nothing can be written to {read_only}: it is mounted read-only, by somebody or, after an error of "
        "the disk, by the kernel. `sudo dmesg | grep -iE 'error|remount'` shows whether there was one: then save what can be read, "
        "and restart the droplet, which checks its disk. Otherwise `sudo mount -o remount,rw {read_only}` makes it writable. After "
        f"that, {_AGAIN}.",
    ),
    Cause(
        r"Input/output error|\[Errno 5\]",
        "{states} failed, since the disk under {disks} could not be read or written: it is breaking, or its connection is. "
        "`sudo dmesg | tail -50` has the kernel's words. Save /var/lib/giggles/uploads and /etc/giggles first, then restart the "
        f"droplet and {_AGAIN}. If it comes back, move to a new droplet.",
    ),
    Cause(
        r"Cannot allocate memory|\[Errno 12\]|MemoryError|Out of memory",
        "{states} failed, since memory ran out. `ps -eo rss,comm --sort=-rss | head` shows who uses it, `swapon --show` whether "
        "there is swap (giggles:hardening:swap_mb). When the nightly job runs, wait for it to end: "
        f"`systemctl status giggles-nightly`. Then {_AGAIN}; if it comes back, the droplet needs more memory.",
    ),
    Cause(
        r"Operation not permitted[^\n]*/\w|/\w[^\n]*Operation not permitted",
        "{states} failed, since not even root may change {immovable}: mostly somebody has made it, or the folder it lies in, "
        "immutable. `sudo lsattr -d {immovables}` shows an i or an a then, which `sudo chattr -ia {immovables}` takes off. Then "
        f"{_AGAIN}.",
    ),
    Cause(
        r"Could not get lock|Unable to acquire the dpkg|lock was locked by another process|Unable to lock",
        "{states} failed, since {holder} is installing packages, which only one can do at a time; mostly it is the daily "
        "security update. `sudo fuser -v /var/lib/dpkg/lock-frontend` shows it. Wait for it to end, then "
        f"{_AGAIN}. Never remove the lock: it goes with the program that holds it.",
    ),
    Cause(
        r"dpkg was interrupted",
        "{states} failed, since an earlier installation of packages was interrupted half-way, and nothing can be installed before "
        f"it is ended. Run `sudo dpkg --configure -a` and `sudo apt-get --fix-broken install`, then {_AGAIN}.",
    ),
    Cause(
        r"Hash Sum mismatch|File has unexpected size",
        "{states} failed, since what {hosts} sent is not what the package lists promise; nothing of it was installed. Mostly the "
        "server is just being updated, or a proxy on the way hands out old files. Wait a quarter of an hour, run "
        f"`sudo apt-get clean`, `sudo rm -r /var/lib/apt/lists` and `sudo apt-get update`, then {_AGAIN}.",
    ),
    Cause(
        r"Release file for \S+ is (?:not valid yet|expired)",
        "{states} failed, since the package lists are from the future or out of date by this server's clock, so that apt does not "
        "trust them. `timedatectl` shows the clock and whether it is synchronized; "
        f"`sudo systemctl restart systemd-timesyncd` sets it. Then {_AGAIN}.",
    ),
    Cause(
        r"NO_PUBKEY|EXPKEYSIG|BADSIG|GPG error|is not signed|signatures (?:couldn't be verified|were invalid)|unauthenticated packages"
        r"|be authenticated|does not have a Release file|OpenPGP signature verification failed",
        "{states} failed, since a source of packages is not signed by a key that this system trusts; nothing of it was installed. "
        "`sudo apt-get update` names the source. One that was added by hand in /etc/apt/sources.list.d: remove its file, or "
        f"install its key. Debian's or Ubuntu's own: look at the clock (`timedatectl`). Then {_AGAIN}. Do not let apt skip this check.",
    ),
    Cause(
        _NOT_FETCHED + r"resolv(?:e|ing)\b",
        "{states} failed, since {packages} could not be fetched: there is no address for the name {hosts} here, so no name server "
        "answers or there is no network. `getent hosts {host}` shows whether there is one by now, `cat /etc/resolv.conf` who is "
        f"asked for it, `ip route` the way out. What is installed goes on running. When the name has an address, {_AGAIN}.",
    ),
    Cause(
        _NOT_FETCHED + r"(?:[Cc]onnect\b|initiate the connection|onnection (?:timed out|refused|failed|reset|closed)"
        r"|Network is unreachable|No route to host)",
        "{states} failed, since {packages} could not be fetched: {hosts} does not let this server connect. "
        "`curl -sSI http://{host}` shows whether it does by now, `ip route` the way out, `grep -ri proxy /etc/apt` a proxy. A "
        "firewall in front of the droplet must let TCP 80 and 443 and UDP 53 out. What is installed goes on running. When the server "
        f"can be reached, {_AGAIN}.",
    ),
    Cause(
        _NOT_FETCHED + r"\b404\b",
        "{states} failed, since {packages} could not be fetched: {hosts} does not have that version any more, so the package lists "
        f"here are older than what it offers. Run `sudo apt-get update`; when it ends without an error, {_AGAIN}. If it "
        "stays so, the sources in /etc/apt are of a release that has moved to an archive, or of a mirror that is not kept up.",
    ),
    Cause(
        _NOT_FETCHED,
        "{states} failed, since {packages} could not be fetched: {hosts} did not hand it out. `sudo apt-get update` shows its own "
        "words. Look at the sources (`grep -r ^ /etc/apt/sources.list*`), at a proxy (`grep -ri proxy /etc/apt`) and at the clock "
        f"(`timedatectl`), then {_AGAIN}.",
    ),
    Cause(
        r"nmet dependencies|held broken packages|fix-broken",
        "{states} failed, since installed packages contradict each other: something was removed by force, held back or comes "
        "from a foreign source. `sudo apt-get --fix-broken install` says what and repairs most of it; `apt-mark showhold` shows "
        f"what is held. Then {_AGAIN}.",
    ),
    Cause(
        r"Unable to locate package|no installation candidate|found in the package db",
        "{states} failed, since apt knows no {packages}: its package lists are missing or old. Run `sudo apt-get update`; if that "
        "complains, it says what keeps it from the server (network, name server, sources in /etc/apt). When it ends without an "
        f"error, {_AGAIN}.",
    ),
    Cause(
        r"Sub-process \S*dpkg\S* returned an error",
        "{states} failed, since a package could not be unpacked or its own script failed. `sudo dpkg --configure -a` shows in the "
        "package's own words why and goes on where it stopped, `sudo tail -50 /var/log/apt/term.log` what was before. When "
        f"nothing is left to configure, {_AGAIN}.",
    ),
)
