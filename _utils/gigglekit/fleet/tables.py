"""What the lease needs in the app's database: three tables in a schema of our own, which nobody but their owner reaches.

Supabase's API serves the schemas it is told to, and not this one. Should somebody add it, the tables still show nothing: row
level security is on without a policy, and the roles of the API have no rights.
"""

from __future__ import annotations

SCHEMA = "giggles_salt"
USERS = "nightly_users"
_TABLES = ("nightly_rounds", "nightly_leases", USERS)

LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(7306086967182226804)"
"""One transaction at a time: whether a lease is over and who takes its users is decided by one clock, in one order."""

ARE_RIGHT = f"""
SELECT count(*) = {len(_TABLES)} AND bool_and(relrowsecurity) AND bool_and(pg_catalog.pg_has_role(relowner, 'USAGE'))
FROM pg_catalog.pg_class
WHERE oid IN ({", ".join(f"pg_catalog.to_regclass('{SCHEMA}.{table}')" for table in _TABLES)})
"""  # noqa: S608 (names of ours)

MAKE = (
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
    # The night: all leases that begin soon after one another have one round in common.
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.nightly_rounds (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        began timestamptz NOT NULL DEFAULT clock_timestamp())""",
    # One start of the job on one droplet. Its number is the fencing token: it grows, and is never given twice.
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.nightly_leases (
        token bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        round bigint NOT NULL REFERENCES {SCHEMA}.nightly_rounds ON DELETE CASCADE,
        droplet text NOT NULL,
        machine text NOT NULL,
        boot text NOT NULL,
        began timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires timestamptz NOT NULL,
        ended timestamptz)""",
    # No foreign key to the app's tables: one would keep the app from changing them.
    f"""CREATE TABLE IF NOT EXISTS {SCHEMA}.{USERS} (
        round bigint NOT NULL REFERENCES {SCHEMA}.nightly_rounds ON DELETE CASCADE,
        user_id uuid NOT NULL,
        token bigint NOT NULL,
        attempts integer NOT NULL DEFAULT 1,
        claimed timestamptz NOT NULL DEFAULT clock_timestamp(),
        done timestamptz,
        PRIMARY KEY (round, user_id))""",
    f"CREATE INDEX IF NOT EXISTS nightly_users_of_lease ON {SCHEMA}.{USERS} (token)",
    *(f"ALTER TABLE {SCHEMA}.{table} ENABLE ROW LEVEL SECURITY" for table in _TABLES),
    f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC",
    f"REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM PUBLIC",
    f"""DO $$
    DECLARE role text;
    BEGIN
        FOR role IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role') LOOP
            EXECUTE format('REVOKE ALL ON SCHEMA {SCHEMA} FROM %I', role);
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM %I', role);
        END LOOP;
    END $$""",  # noqa: S608 (names of ours)
)
"""Safe to run again."""
