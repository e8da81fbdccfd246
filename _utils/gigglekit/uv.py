"""What every start of uv has in common, whatever it installs."""

SETTINGS = {
    # The system's own list of whom to trust, as everything else on it.
    "UV_SYSTEM_CERTS": "1",
    # By itself uv gives up after three tries, which is five to ten seconds. A package index, and the way to it, are away for longer now and
    # then; with six it is about a minute, and what is really away is still told soon.
    "UV_HTTP_RETRIES": "6",
}
