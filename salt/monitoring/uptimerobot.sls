# What looks at this server from outside: applied with the rest where it is enabled, or was. Without a key there is no such file, and
# without one nobody is asked.
{%- from "map.jinja" import giggles with context %}
{%- set key = pillar.get("giggles", {}).get("secrets", {}).get("monitoring", {}).get("uptimerobot_key") %}
{%- if key and giggles.domain %}

# It holds the key: show_changes keeps its difference out of the state's return, and with it out of every log.
uptimerobot-settings:
  file.managed:
    - name: /etc/giggles/uptimerobot.json
    - source: salt://monitoring/files/etc/giggles/uptimerobot_json.py
    - template: py
    - context:
        choices: {{ giggles.monitoring.uptimerobot | tojson }}
        domain: {{ giggles.domain | tojson }}
        mail: {{ giggles.monitoring.mail.to | tojson }}
    - user: root
    - group: root
    - mode: '0600'
    - makedirs: True
    - follow_symlinks: False
    - show_changes: False
{%- else %}

uptimerobot-settings:
  file.absent:
    - name: /etc/giggles/uptimerobot.json
{%- endif %}

# Asked once a day and whenever the settings change.
uptimerobot-monitors-exact:
  uptimerobot.monitors:
    - require:
      - file: uptimerobot-settings
