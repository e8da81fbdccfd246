"""The table of contents of a dump: what is in it, and what of that a database lacks.

Source: PostgreSQL's documentation, pg_restore, `--list` and `--use-list`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# "3252; 2606 16401 CONSTRAINT auth users users_pkey postgres": number; catalogue and object id, kind, schema, name, owner
_LINE = re.compile(r"(\d+); \d+ \d+ (.+)")
# Kinds of more than one word first, since a kind of one word may begin them.
_KINDS = (
    "TABLE DATA",
    "TABLE ATTACH",
    "INDEX ATTACH",
    "FOREIGN TABLE",
    "MATERIALIZED VIEW DATA",
    "MATERIALIZED VIEW",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "ROW SECURITY",
    "EVENT TRIGGER",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "PUBLICATION TABLES IN SCHEMA",
    "PUBLICATION TABLE",
)
# By what family the database itself is asked whether it has such a thing (see CATALOGUE).
_FAMILIES = {
    "SCHEMA": "schema",
    "TABLE": "relation",
    "FOREIGN TABLE": "relation",
    "VIEW": "relation",
    "MATERIALIZED VIEW": "relation",
    "SEQUENCE": "relation",
    "INDEX": "relation",
    "TYPE": "type",
    "DOMAIN": "type",
    "FUNCTION": "function",
    "PROCEDURE": "function",
    "AGGREGATE": "function",
    "CONSTRAINT": "constraint",
    "FK CONSTRAINT": "constraint",
    "CHECK CONSTRAINT": "constraint",
    "TRIGGER": "trigger",
    "POLICY": "policy",
    "DEFAULT": "default",
    "RULE": "rule",
    "STATISTICS": "statistics",
    "COLLATION": "collation",
    "TEXT SEARCH CONFIGURATION": "search configuration",
    "TEXT SEARCH DICTIONARY": "search dictionary",
    "ROW SECURITY": "secured",
    # Belongs to a relation, and is there if that was.
    "TABLE ATTACH": "relation",
    "INDEX ATTACH": "relation",
    "SEQUENCE OWNED BY": "relation",
}
# Belongs to the server or to other tools, not to the app's data.
_LEFT_OUT = ("PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION", "EVENT TRIGGER")
BOOKKEEPING = frozenset({("auth", "schema_migrations")})
"""Tables in which a project itself keeps how far its schemas are; a new project has newer ones, which stay."""

CATALOGUE = """
WITH s AS (SELECT oid, nspname AS schema FROM pg_catalog.pg_namespace WHERE nspname = ANY({schemas})),
     r AS (SELECT c.oid, schema, relname AS name, relrowsecurity FROM pg_catalog.pg_class c JOIN s ON s.oid = c.relnamespace)
SELECT 'schema', '-', schema::text FROM s
UNION ALL SELECT 'relation', schema, name FROM r
UNION ALL SELECT 'secured', schema, name FROM r WHERE relrowsecurity
UNION ALL SELECT 'type', schema, typname FROM pg_catalog.pg_type t JOIN s ON s.oid = t.typnamespace
UNION ALL SELECT 'function', schema, proname || '(' || array_to_string(ARRAY(SELECT format_type(a.t, NULL)
        FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS a (t, i) ORDER BY a.i), ', ') || ')'
    FROM pg_catalog.pg_proc p JOIN s ON s.oid = p.pronamespace
UNION ALL SELECT 'constraint', schema, name || ' ' || conname FROM pg_catalog.pg_constraint c JOIN r ON r.oid = c.conrelid
UNION ALL SELECT 'trigger', schema, name || ' ' || tgname FROM pg_catalog.pg_trigger t JOIN r ON r.oid = t.tgrelid
UNION ALL SELECT 'policy', schema, name || ' ' || polname FROM pg_catalog.pg_policy p JOIN r ON r.oid = p.polrelid
UNION ALL SELECT 'default', schema, name || ' ' || attname FROM pg_catalog.pg_attribute a JOIN r ON r.oid = a.attrelid WHERE atthasdef
UNION ALL SELECT 'rule', schema, name || ' ' || rulename FROM pg_catalog.pg_rewrite w JOIN r ON r.oid = w.ev_class
UNION ALL SELECT 'statistics', schema, stxname FROM pg_catalog.pg_statistic_ext e JOIN s ON s.oid = e.stxnamespace
UNION ALL SELECT 'collation', schema, collname FROM pg_catalog.pg_collation c JOIN s ON s.oid = c.collnamespace
UNION ALL SELECT 'search configuration', schema, cfgname FROM pg_catalog.pg_ts_config c JOIN s ON s.oid = c.cfgnamespace
UNION ALL SELECT 'search dictionary', schema, dictname FROM pg_catalog.pg_ts_dict d JOIN s ON s.oid = d.dictnamespace
"""
"""Asks what a database has: family, schema, name as a table of contents writes it. `{schemas}` is an array of theirs."""

Thing = tuple[str, str, str]


@dataclass(frozen=True)
class Entry:
    """One thing in a dump.

    Arguments:
        number: by which `--use-list` knows it.
        kind: `TABLE`, `TABLE DATA`, `FK CONSTRAINT`, …
        schema: `-` if it is in none.
        name: what pg_dump calls it: the name, after the table's if it belongs to one.
    """

    number: int
    kind: str
    schema: str
    name: str


def read(listing: str) -> list[Entry]:
    """Return what `pg_restore --list` lists, in its order."""
    entries = []
    for line in listing.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        kind = next((kind for kind in _KINDS if match[2].startswith(f"{kind} ")), match[2].split(" ")[0])
        schema, _, rest = match[2][len(kind) + 1 :].partition(" ")
        # An owner's name with a blank in it spoils this: such an entry then is taken for new, which the database refuses if it is not.
        entries.append(Entry(int(match[1]), kind, schema, rest.rpartition(" ")[0]))
    return entries


def wanted(entries: list[Entry], there: set[Thing]) -> list[Entry]:
    """Return what has to be loaded into a database that has what is `there`: what it lacks, and all rows."""
    return [entry for entry in entries if _is_wanted(entry, there)]


def tables(entries: list[Entry]) -> list[tuple[str, str]]:
    """Return the tables that rows are loaded into, schema and name."""
    return [(entry.schema, entry.name) for entry in entries if entry.kind == "TABLE DATA"]


def use_list(entries: list[Entry]) -> bytes:
    """Return the entries as `--use-list` wants them."""
    return "".join(f"{entry.number};\n" for entry in entries).encode()


def _is_wanted(entry: Entry, there: set[Thing]) -> bool:
    if entry.kind in _LEFT_OUT:
        return False
    if entry.kind == "TABLE DATA":
        return (entry.schema, entry.name) not in BOOKKEEPING or ("relation", entry.schema, entry.name) not in there
    if entry.kind == "COMMENT":
        # "TABLE users", "COLUMN users.email", "SCHEMA public": of something new only, since it takes the owner to change it.
        described, _, name = entry.name.partition(" ")
        family = _FAMILIES.get(described, "relation")
        return (family, entry.schema, name) not in there and ("relation", entry.schema, name.split(".")[0].split(" ON ")[-1]) not in there
    family = _FAMILIES.get(entry.kind, "")
    return not family or (family, entry.schema, entry.name) not in there
