{%- from "map.jinja" import giggles with context %}
{%- set pings = "monitoring" in giggles.roles %}
include:
  - app.account
  - app.folders
  - app.environment
  - app.logs
  - app.units
{%- if pings %}
  - monitoring.pings
{%- endif %}

nightly-log-private:
  file.managed:
    - name: /var/log/giggles/nightly.log
    - user: giggles
    - group: giggles
    - mode: '0640'
    - replace: False
    - follow_symlinks: False
    - require:
      - file: folder-/var/log/giggles

# Every release takes this lock when it is told to run the nightly script, whoever starts it.
nightly-lock-present:
  file.managed:
    - name: /opt/giggles/nightly.lock
    - user: root
    - group: giggles
    - mode: '0640'
    - replace: False
    - follow_symlinks: False
    - require:
      - file: folder-/opt/giggles
      - user: account-giggles

nightly-recorder-installed:
  file.managed:
    - name: /usr/local/lib/giggles/nightly-record
    - source: salt://nightly/files/usr/local/lib/giggles/nightly-record
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False

nightly-unit:
  file.managed:
    - name: /etc/systemd/system/giggles-nightly.service
    - source: salt://nightly/files/etc/systemd/system/giggles-nightly.service
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit giggles-nightly.service
    - require:
      - file: unit-verifier-installed
      - file: nightly-recorder-installed
{%- if pings %}
      - file: ping-program-installed
{%- endif %}
      - file: nightly-log-private
      - file: nightly-lock-present

# A drop-in would change what the unit says.
{%- set drop_ins = [] %}
{%- for place in ["/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control"] %}
{%- do drop_ins.append(place ~ "/giggles-nightly.service.d") %}
{%- endfor %}
{%- for path in drop_ins %}

unit-not-altered-by-{{ path }}:
  file.absent:
    - name: {{ path }}
{%- endfor %}

nightly-unit-loaded:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: nightly-unit
{%- for path in drop_ins %}
      - file: unit-not-altered-by-{{ path }}
{%- endfor %}
