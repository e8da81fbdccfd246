include:
  - app.account
  - app.environment

unit-verifier-installed:
  file.managed:
    - name: /usr/local/lib/giggles/verify-unit
    - source: salt://app/files/usr/local/lib/giggles/verify-unit
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False

{%- for unit in ["giggles.socket", "giggles.service"] %}

unit-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://app/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - user: account-giggles
{%- endfor %}

# A drop-in would change what the units above say.
units-without-additions:
  file.absent:
    - names:
{%- for unit in ["giggles.socket", "giggles.service"] %}
{%- for place in ["/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control"] %}
      - {{ place }}/{{ unit }}.d
{%- endfor %}
{%- endfor %}

app-units-loaded:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: unit-giggles.socket
      - file: unit-giggles.service
      - file: units-without-additions
