"""Settings of the sample app: the keys and rules of Giggles, read from the environment and `.env`."""

import os

from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every key that the app knows.

    The process environment may hold more; `.env` in the working directory may not, and start-up fails on the first
    key that is not listed here. SUPABASE_ANON_KEY is missing on purpose: one route reads it from the process
    environment, so in `.env` it is an unknown key like any other.

    Raises:
        pydantic.ValidationError: a required key is missing, a value breaks its rule, or `.env` has an unknown key.
            As with Giggles itself, the message quotes the values it complains about.
    """

    # Forbidding extra keys is what makes a stray credential in .env a failed start.
    model_config = SettingsConfigDict(env_file=".env", extra="forbid", case_sensitive=False)

    supabase_url: str
    supabase_key: str
    supabase_service_role_key: str
    secret_key: str
    encryption_key: str
    database_url: str

    debug: bool = False
    host: str = "0.0.0.0"
    port: int = 8000
    allowed_origins: str = "http://localhost:8000"
    # Accepted and then ignored, as Giggles does: the list of hosts is fixed in main.py.
    allowed_hosts: str = "localhost,127.0.0.1"

    upload_dir: str = "./uploads"
    max_file_size: int = 100 * 1024 * 1024

    rate_limit_requests: int = 100
    rate_limit_window: int = 3600

    yamnet_model_url: str = "https://tfhub.dev/google/yamnet/1"
    audio_sample_rate: int = 16000
    audio_channels: int = 1
    laughter_threshold: float = 0.1
    clip_duration: float = 4.0

    cleanup_interval: int = 3600
    max_file_age: int = 86400

    @field_validator("secret_key")
    @classmethod
    def _secret_key_is_long_and_varied(cls, value: str) -> str:
        if len(value) < 32 or len(set(value)) < 10:
            raise ValueError("SECRET_KEY needs at least 32 characters, at least 10 of them different")
        return value

    @field_validator("encryption_key")
    @classmethod
    def _encryption_key_is_32_bytes_in_hex(cls, value: str) -> str:
        if len(value) != 64 or not set(value) <= set("0123456789abcdefABCDEF"):
            raise ValueError("ENCRYPTION_KEY needs exactly 64 hex characters (32 bytes)")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url_is_postgresql(cls, value: str) -> str:
        if not value.startswith("postgresql://"):
            raise ValueError("DATABASE_URL must start with postgresql://")
        return value

    @field_validator("laughter_threshold")
    @classmethod
    def _threshold_is_a_probability(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError("LAUGHTER_THRESHOLD must lie between 0 and 1")
        return value

    @field_validator("upload_dir")
    @classmethod
    def _upload_dir_exists(cls, value: str) -> str:
        os.makedirs(value, exist_ok=True)
        return value

    @property
    def upload_root(self) -> str:
        """Absolute upload folder, symbolic links not resolved: with a relative UPLOAD_DIR it lies in the release."""
        return os.path.abspath(self.upload_dir)


# The arguments come from the environment, which a type checker cannot know.
settings = Settings()  # type: ignore[call-arg]
