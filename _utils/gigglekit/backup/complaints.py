"""What PostgreSQL and its programs say is wrong, put into words for an operator, without a password and without what is in rows.

A server quotes values when it refuses them, so nothing of it is repeated but what is about objects and rights.
"""

from __future__ import annotations

import re

from gigglekit.backup.login import Server
from gigglekit.backup.postgresql import DatabaseError

_ADDRESS = "giggles:secrets:app:DATABASE_URL"
_LONGEST = 200

# psql and libpq with VERBOSITY=verbose
_STATE = re.compile(r"(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}): (.*)")
_FIELD = re.compile(r"^(SCHEMA|TABLE|COLUMN|CONSTRAINT|DATA TYPE) NAME:\s+(.*)$", re.MULTILINE)
# Classes whose messages name objects, rights, limits and times only. 42601 quotes what it could not read.
_TELLABLE = ("42", "3F", "3D", "28", "53", "54", "55", "57", "58", "0A", "2B", "25")

# What is in the words in the left, on the right what it means and what helps.
_KNOWN = (
    (
        r"password authentication failed|no password supplied|SASL authentication failed|Wrong password",
        f"it refuses the user or the password. Correct {_ADDRESS}; Supabase shows the password's reset under Database settings",
    ),
    (
        r"Tenant or user not found|ENOTFOUND",
        f"the pooler knows no such project or user. Copy the session pooler's address anew from Supabase's Connect page into {_ADDRESS}",
    ),
    (
        r"too many connections|remaining connection slots|MaxClientsInSessionMode|max clients reached",
        "it has no connection left. Ask again later, or raise the pool size",
    ),
    (r"could not translate host name|Name or service not known|No address associated|Temporary failure in name", "NAME"),
    (r"Network is unreachable|No route to host|Cannot assign requested address", "NAME"),
    (r"[Cc]onnection refused", f"nothing answers there. Check that it runs, and host and port of {_ADDRESS}"),
    (
        r"timeout expired|Connection timed out|timed out",
        "it did not answer in time. Check that it runs and that a firewall lets this droplet in",
    ),
    # What follows speaks of encryption as well, where the connection had it or would have had.
    (r"no pg_hba.conf entry", "it does not let this user in from this droplet. Correct its pg_hba.conf"),
    (
        r"server closed the connection|terminating connection|[Cc]onnection reset|connection to server was lost|shutting down|starting up"
        r"|SSL connection has been closed|SSL SYSCALL error: EOF",
        "it ended the connection. Look whether it was restarted, then ask again",
    ),
    (r"SSL|certificate", f"the encrypted connection could not be made. Check sslmode and sslrootcert in {_ADDRESS}"),
    (r'database "[^"]*" does not exist', f"it has no such database. Correct {_ADDRESS}"),
    (r"[Rr]ow.level security", "ROWS"),
    (
        r"syntax error in service file|definition of service|invalid connection option",
        f"the address has an option that this version of PostgreSQL's client does not know. Leave it out of {_ADDRESS}, or install a "
        "newer client",
    ),
    (r"canceling statement due to statement timeout", "it ends statements after a time (statement_timeout). Raise it for this user"),
    (r"lock timeout|could not obtain lock", "a table is in use all the time. Stop what uses it (systemctl stop giggles), then ask again"),
    (r"No space left|could not extend file|disk full", "its disk is full. Give it room, then ask again"),
    (r"out of (shared )?memory", "it has too little memory for this. Give it more, then ask again"),
)
_ROWS = (
    f"row level security hides rows from the account of {_ADDRESS}, and a dump without them would not be one. Use the account that owns "
    "the tables, or one with BYPASSRLS (Supabase: postgres)"
)
_MEANINGS = {
    "42501": f"the account of {_ADDRESS} has no right to it. Use the account that owns the tables (Supabase: postgres)",
    "42704": "it lacks something that the dump refers to: a role, a type or a setting. Create it, or use a server of the dump's version",
    "42883": "it lacks a function that the dump refers to. Enable the same extensions as before, then ask again",
    "3F000": "it lacks a schema that the dump refers to. Create it (Supabase: enable the same extensions as before), then ask again",
    "42703": "a table has other columns than when the dump was made. Bring it to the schema of that time, or remove it, then ask again",
    "42P01": "it lacks a table that the dump refers to",
}
_EMPTYING = "cannot truncate a table referenced in a foreign key constraint"
_REFERENCE = re.compile(r'^DETAIL:\s+(Table "[^\n]{1,200}" references "[^\n]{1,200}")\.$', re.MULTILINE)


def explained(words: str, where: Server, what: str, after: str = "") -> DatabaseError:
    """Return an error that an operator can act on.

    Arguments:
        words: what a program wrote, or a driver's error; may quote anything.
        where: the database.
        what: what could not be done, as the beginning of a sentence.
        after: a sentence on what holds now.
    """
    text = f"{what}: {_reason(words, where)}."
    return DatabaseError(f"{text} {after}".strip())


def _reason(words: str, where: Server) -> str:
    state = _STATE.search(words)
    for pattern, meaning in _KNOWN:
        if re.search(pattern, words if state is None else state[2]):
            if meaning == "NAME":
                return _not_reached(where)
            return _ROWS if meaning == "ROWS" else meaning
    if state is not None:
        return _refusal(state[1], state[2], words)
    denied = re.search(r'permission denied for (?:table|schema|relation|sequence|view|function|database) [\w".]+', words)
    if denied:
        return f"{denied[0]}. {_MEANINGS['42501'][0].upper()}{_MEANINGS['42501'][1:]}"
    mismatch = re.search(r"server version: (\d+)[^;]*; pg_dump version: (\d+)", words)
    if mismatch:
        return f"the server is version {mismatch[1]} and pg_dump {mismatch[2]}. Install postgresql-client-{mismatch[1]}"
    if re.search(r"unsupported version \([\d.]+\) in file header", words):
        return "the dump was made by a newer pg_dump. Install the client of PostgreSQL of the version that the snapshot names"
    return "it gave no reason that can be repeated here. Ask it for its log at this time"


def _refusal(state: str, message: str, words: str) -> str:
    names = ", ".join(f"{match[1].lower()} {match[2]}" for match in _FIELD.finditer(words))
    tellable = state[:2] in _TELLABLE and state != "42601"
    said = f"{message[:_LONGEST]} (SQLSTATE {state})" if tellable else f"SQLSTATE {state}" + (f", {names}" if names else "")
    meaning = _MEANINGS.get(state)
    if message.startswith(_EMPTYING):
        which = _REFERENCE.search(words)
        meaning = (
            "a table that is not in the dump refers to one that is, so that this one cannot be emptied, whatever the other one holds"
            f"{f' ({which[1]})' if which else ''}. If nobody needs it, as after a migration that made it, remove it (DROP TABLE), else its "
            "foreign key until the dump is loaded (ALTER TABLE … DROP CONSTRAINT); then ask again"
        )
    return f"{said}: {meaning}" if meaning else said


def _not_reached(where: Server) -> str:
    if where.host.endswith(".supabase.co"):
        return (
            f"{where.host} cannot be reached: Supabase's direct address has IPv6 only. Where the droplet has none, use the session "
            f"pooler's address (…pooler.supabase.com, port 5432) at {_ADDRESS}"
        )
    return f"{where.host} cannot be found or reached from this droplet. Check the name in {_ADDRESS}, and the network"
