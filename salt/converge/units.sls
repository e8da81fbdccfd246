# What fetches this repository and applies it by itself. Who may sign its commits is part of it.
{%- from "map.jinja" import giggles with context %}
{#- The service is there to be started by hand as well; only the timer is what can be switched off. #}
{%- set units = ["giggles-converge.service"] + (["giggles-converge.timer"] if giggles.converge.enabled else []) %}
{%- set pings = "monitoring" in giggles.roles %}
include:
  - common.validate
{%- if pings %}
  - monitoring.pings
{%- endif %}

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
{%- if pings %}
      - file: ping-program-installed
{%- endif %}
{%- if not loop.first %}
      - file: {{ units[0] }}-installed
{%- endif %}
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
{%- if giggles.converge.enabled %}

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

converge-timer-absent:
  units.absent:
    - units: [giggles-converge.timer]
{%- endif %}
