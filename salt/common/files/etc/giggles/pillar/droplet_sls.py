#!py
"""Renders /etc/giggles/pillar/droplet.sls on a droplet that is told what to be from elsewhere."""

from gigglekit.settings.droplet import PUSHED_HEADER, render


def run() -> str:
    return render(__pillar__["giggles"], PUSHED_HEADER)
