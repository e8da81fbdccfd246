"""The auditors look at the same droplet as tests/droplet."""

from tests.droplet.conftest import droplet  # noqa: F401  (a fixture is used by its name)
