# Clips that the nightly job makes on this droplet go to the one that serves them (send), or come here (receive), by way of the bucket.
{%- from "map.jinja" import giggles with context %}
{%- set units = ["giggles-delivery.service", "giggles-delivery.timer"] %}
include:
  - common.failures
{%- if giggles.delivery.mode %}
  - common.validate
  - app.account
  - app.folders

# It holds the application key and the fleet's: show_changes keeps its difference out of the state's return, and with it out of every log.
delivery-settings:
  file.managed:
    - name: /etc/giggles/delivery.json
    - source: salt://delivery/files/etc/giggles/delivery_json.py
    - template: py
    - context:
        choices: {{ giggles.backup | tojson }}
        prefix: {{ giggles.delivery.prefix | tojson }}
    - user: root
    - group: root
    - mode: '0600'
    - makedirs: True
    - follow_symlinks: False
    - show_changes: False
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://delivery/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - file: delivery-settings
      - user: account-giggles
{%- endfor %}

delivery-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}
    # Not one that is at work: the next one runs as it should.
    - restart: False

delivery-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

delivery-runs:
  units.running:
    - name: giggles-delivery.timer
    - require:
      - module: delivery-units-known
      - units: delivery-units-unaltered
    - watch:
      - file: giggles-delivery.timer-installed
{%- else %}

delivery-absent:
  units.absent:
    - units: {{ units | tojson }}

delivery-settings:
  file.absent:
    - name: /etc/giggles/delivery.json

delivery-notes:
  file.absent:
    - name: /var/lib/giggles-delivery
{%- endif %}
