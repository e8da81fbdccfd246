include:
  - common.validate
  - app.account
  - app.environment

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
{%- set drop_ins = [] %}
{%- for unit in ["giggles.socket", "giggles.service"] %}
{%- for place in ["/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control"] %}
{%- do drop_ins.append(place ~ "/" ~ unit ~ ".d") %}
{%- endfor %}
{%- endfor %}
{%- for path in drop_ins %}

unit-not-altered-by-{{ path }}:
  file.absent:
    - name: {{ path }}
{%- endfor %}

app-units-loaded:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: unit-giggles.socket
      - file: unit-giggles.service
{%- for path in drop_ins %}
      - file: unit-not-altered-by-{{ path }}
{%- endfor %}
