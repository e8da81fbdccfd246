"""Where settings come from."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMA_FILE = REPOSITORY / "pillar" / "schema.yaml"
DEFAULTS_FILE = REPOSITORY / "salt" / "defaults.yaml"

DROPLET_FILE = Path("/etc/giggles/pillar/droplet.sls")
GRAINS_FILE = Path("/etc/salt/grains")

UNREADABLE = "giggles_unreadable"
"""Where _renderers/quiet_yaml.py notes the pillar files that are not YAML, with the place where reading stopped."""
