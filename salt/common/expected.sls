# What this droplet is meant to have, for giggles.status, alerts and the status page; no secrets.
{%- from "map.jinja" import giggles with context %}

status-expectations:
  file.managed:
    - name: /etc/giggles/status.json
    - source: salt://common/files/etc/giggles/status_json.py
    - template: py
    - context:
        choices: {{ {"environment": giggles.environment, "roles": giggles.roles, "domain": giggles.domain,
                     "backup": giggles.backup, "delivery": giggles.delivery, "monitoring": giggles.monitoring,
                     "converge": giggles.converge, "nightly": giggles.nightly, "admin": {"name": giggles.admin.name},
                     "hardening": {"ssh_second_factor": giggles.hardening.ssh_second_factor} } | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False
