-- Schema of the sample app: the tables of Giggles in `public`, beside as much of Supabase's `auth` as they need.
--
--   psql -v ON_ERROR_STOP=1 --single-transaction -f setup_database.sql DATABASE_URL
--
-- Load it as the role that DATABASE_URL names. That role must be a superuser the first time in a cluster, because
-- only a superuser may create `service_role` with BYPASSRLS. If the app logs in as somebody else, that role needs
-- `GRANT authenticated, service_role TO …`. Loading the file again changes nothing.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'supabase_auth_admin') THEN
        RAISE EXCEPTION 'This looks like a Supabase project: the sample schema would replace functions of its auth schema.'
            USING HINT = 'Load this file into a PostgreSQL of your own.';
    END IF;
END
$$;

-- Roles belong to the whole cluster, so another database may have created them, perhaps at this very moment.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'anon') THEN
        CREATE ROLE anon NOLOGIN NOINHERIT;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticated') THEN
        CREATE ROLE authenticated NOLOGIN NOINHERIT;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role') THEN
        CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        RAISE EXCEPTION 'Another session was creating the same roles.' USING HINT = 'Load this file again.';
END
$$;

GRANT anon, authenticated, service_role TO CURRENT_USER;

-- auth: what Supabase provides ---------------------------------------------------------------------------------------

CREATE SCHEMA IF NOT EXISTS auth;

CREATE TABLE IF NOT EXISTS auth.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aud text DEFAULT 'authenticated',
    role text DEFAULT 'authenticated',
    email text UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path = ''
    -- A setting made with SET LOCAL is '' after its transaction, not NULL.
    AS $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;

CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid
    LANGUAGE sql STABLE
    SET search_path = ''
    AS $$ SELECT nullif(auth.jwt() ->> 'sub', '')::uuid $$;

-- public: the tables of the app ----------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS public.users (
    id uuid PRIMARY KEY REFERENCES auth.users (id) ON DELETE CASCADE,
    email text NOT NULL UNIQUE,
    is_active boolean NOT NULL DEFAULT true,
    mfa_enabled boolean NOT NULL DEFAULT false,
    timezone text NOT NULL DEFAULT 'UTC',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.limitless_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    encrypted_api_key text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.audio_segments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    date date NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz NOT NULL,
    file_path text NOT NULL,
    processed boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.laughter_detections (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    audio_segment_id uuid NOT NULL REFERENCES public.audio_segments (id) ON DELETE CASCADE,
    timestamp timestamptz NOT NULL,
    probability numeric(5, 4) NOT NULL CHECK (probability BETWEEN 0 AND 1),
    clip_path text NOT NULL,
    notes text,
    class_id integer,
    class_name text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.processing_logs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    date date NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    message text,
    trigger_type text NOT NULL DEFAULT 'manual' CHECK (trigger_type IN ('manual', 'scheduled', 'cron')),
    processing_duration_seconds integer,
    audio_files_downloaded integer NOT NULL DEFAULT 0,
    laughter_events_found integer NOT NULL DEFAULT 0,
    duplicates_skipped integer NOT NULL DEFAULT 0,
    error_details jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS limitless_keys_of_user ON public.limitless_keys (user_id);
CREATE INDEX IF NOT EXISTS audio_segments_of_user ON public.audio_segments (user_id, date);
CREATE INDEX IF NOT EXISTS laughter_detections_of_user ON public.laughter_detections (user_id, timestamp);
CREATE INDEX IF NOT EXISTS laughter_detections_of_segment ON public.laughter_detections (audio_segment_id);
CREATE INDEX IF NOT EXISTS processing_logs_of_user ON public.processing_logs (user_id, date);

-- Sign-up ------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION public.add_profile_of_new_account() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = ''
    AS $$
BEGIN
    -- mfa_enabled is true without any second factor, as in Giggles.
    INSERT INTO public.users (id, email, mfa_enabled) VALUES (NEW.id, NEW.email, true);
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER add_profile_of_new_account
    AFTER INSERT ON auth.users
    FOR EACH ROW EXECUTE FUNCTION public.add_profile_of_new_account();

-- Row level security: each user sees and changes their own rows --------------------------------------------------------

ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_row ON public.users;
CREATE POLICY own_row ON public.users TO authenticated
    USING (auth.uid() = id) WITH CHECK (auth.uid() = id);

ALTER TABLE public.limitless_keys ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_rows ON public.limitless_keys;
CREATE POLICY own_rows ON public.limitless_keys TO authenticated
    USING (auth.uid() = user_id) WITH CHECK (auth.uid() = user_id);

ALTER TABLE public.audio_segments ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_rows ON public.audio_segments;
CREATE POLICY own_rows ON public.audio_segments TO authenticated
    USING (auth.uid() = user_id) WITH CHECK (auth.uid() = user_id);

ALTER TABLE public.laughter_detections ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_rows ON public.laughter_detections;
CREATE POLICY own_rows ON public.laughter_detections TO authenticated
    USING (auth.uid() = user_id) WITH CHECK (auth.uid() = user_id);

ALTER TABLE public.processing_logs ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_rows ON public.processing_logs;
CREATE POLICY own_rows ON public.processing_logs TO authenticated
    USING (auth.uid() = user_id) WITH CHECK (auth.uid() = user_id);

-- Grants -------------------------------------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA public, auth TO anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION auth.jwt(), auth.uid() TO anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON public.users, public.limitless_keys, public.audio_segments, public.laughter_detections, public.processing_logs
    TO anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON auth.users TO service_role;
