# What is watched, who is told, and the secret addresses of the dead-man checks.
{%- from "map.jinja" import giggles with context %}

# show_changes keeps its difference, and with it the addresses, out of the state's return.
monitoring-settings:
  file.managed:
    - name: /etc/giggles/monitoring.json
    - source: salt://monitoring/files/etc/giggles/monitoring_json.py
    - template: py
    - context:
        choices: {{ {"domain": giggles.domain, "roles": giggles.roles, "monitoring": giggles.monitoring,
                     "converge": giggles.converge, "backup": giggles.backup} | tojson }}
    - user: root
    - group: root
    - mode: '0600'
    - makedirs: True
    - follow_symlinks: False
    - show_changes: False
