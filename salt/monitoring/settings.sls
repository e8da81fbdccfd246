# Who is told, and the secret addresses of the dead-man checks. What is watched is what is expected of this droplet.
{%- from "map.jinja" import giggles with context %}
include:
  - common.expected

# show_changes keeps its difference, and with it the addresses, out of the state's return.
monitoring-settings:
  file.managed:
    - name: /etc/giggles/monitoring.json
    - source: salt://monitoring/files/etc/giggles/monitoring_json.py
    - template: py
    - context:
        choices: {{ {"environment": giggles.environment, "domain": giggles.domain, "monitoring": giggles.monitoring} | tojson }}
    - user: root
    - group: root
    - mode: '0600'
    - makedirs: True
    - follow_symlinks: False
    - show_changes: False
