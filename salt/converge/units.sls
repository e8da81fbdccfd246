# What fetches this repository and applies it by itself. Who may sign its commits is part of it.
{%- from "map.jinja" import giggles with context %}
{%- set units = ["giggles-converge.service", "giggles-converge.timer"] %}
include:
  - common.validate

{%- if giggles.converge.allowed_signers %}

converge-signers:
  file.managed:
    - name: /etc/giggles/allowed_signers
    - source: salt://converge/files/etc/giggles/allowed_signers
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False
{%- else %}

converge-signers:
  file.absent:
    - name: /etc/giggles/allowed_signers
{%- endif %}

# What the last run had: a digest of the pillar is for nobody else.
converge-notes-private:
  file.directory:
    - name: /var/lib/giggles/converge
    - user: root
    - group: root
    - mode: '0700'
    - makedirs: True
    - follow_symlinks: False
{%- if giggles.converge.enabled %}
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://converge/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - file: converge-signers
      - file: converge-notes-private
{%- endfor %}

converge-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}
    # Not the run that this may be a part of.
    - restart: False

converge-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

converge-timer-runs:
  units.running:
    - units: [giggles-converge.timer]
    - require:
      - module: converge-units-known
      - units: converge-units-unaltered
    - watch:
      - file: giggles-converge.timer-installed
      - units: converge-units-unaltered
{%- else %}

# The service stays, asked for by nobody: this may be its own run, which would end here.
converge-timer-absent:
  units.absent:
    - units: [giggles-converge.timer]
{%- endif %}
