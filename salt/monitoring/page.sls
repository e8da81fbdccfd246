# One page that says whether everything is all right. The concern web serves it on 127.0.0.1:9180, where there is such a droplet.
{%- from "map.jinja" import giggles with context %}
{%- set units = ["giggles-status.service", "giggles-status.path", "giggles-status.timer"] %}
include:
  - common.validate
  - app.account
  - app.folders

# What is expected of this droplet; no secrets.
status-expectations:
  file.serialize:
    - name: /etc/giggles/status.json
    - serializer: json
    - dataset:
        roles: {{ giggles.roles | tojson }}
        domain: {{ giggles.domain | tojson }}
        bucket: {{ (giggles.backup.bucket is not none) | tojson }}
        mail: {{ (giggles.monitoring.mail.to is not none) | tojson }}
        self_converge: {{ giggles.converge.enabled | tojson }}
        nightly_memory_mb: {{ giggles.nightly.memory_max_mb }}
        thresholds: {{ giggles.monitoring.thresholds | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

# Beside /var/lib/giggles, which nginx may not enter.
status-folder:
  file.directory:
    - name: /var/lib/giggles-status
    - user: root
    - group: root
    - mode: '0755'
    - follow_symlinks: False
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://monitoring/files/etc/systemd/system/{{ unit }}
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - file: status-expectations
      - file: status-folder
      - file: folder-/var/lib/giggles/records
{%- if not loop.first %}
      - file: {{ units[0] }}-installed
{%- endif %}
{%- endfor %}

status-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}
    - restart: False

status-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

status-rebuilds:
  units.running:
    - units: [giggles-status.path, giggles-status.timer]
    - require:
      - module: status-units-known
      - units: status-units-unaltered
    - watch:
      - file: giggles-status.path-installed
      - file: giggles-status.timer-installed
      - units: status-units-unaltered
