-- The app's role and database, and the roles that Supabase has and schemas grant to. Safe to run again.
-- Variables: name (of role and database), password.
\set ON_ERROR_STOP on

SELECT format('CREATE ROLE %I LOGIN CREATEROLE BYPASSRLS', :'name')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec

SELECT format('CREATE ROLE %I NOLOGIN', role)
  FROM (VALUES ('anon'), ('authenticated'), ('service_role')) AS supabase (role)
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

-- Row level security does not bind it; whoever takes this role on is bound by what the role is, not by what he was.
ALTER ROLE service_role BYPASSRLS;
GRANT anon, authenticated, service_role TO :"name";
ALTER ROLE :"name" PASSWORD :'password';

SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
