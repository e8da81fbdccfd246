# What works on the volume by itself: unlocking after a boot, adopting new users' folders, a new key for the lobby every night,
# and a sweep for clips that no row names any more.
include:
  - common.validate
  - vault.folders
{%- set units = [
  "giggles-vault-adopt.service", "giggles-vault-lobby.service", "giggles-vault-lobby.timer",
  "giggles-vault-sweep.service", "giggles-vault-sweep.timer",
] %}
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://vault/files/etc/systemd/system/{{ unit }}
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - file: giggles-vault-unlock.service-installed
{%- endfor %}

vault-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}

vault-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

vault-unlocked-at-boot:
  units.running:
    - name: giggles-vault-unlock.service
    - require:
      - vault: vault-ready
      - module: vault-units-known

# Where clips are not encrypted, there is nothing to adopt.
vault-adopts:
  units.running:
    - name: giggles-vault-adopt.service
    - needs: /var/lib/giggles/uploads/vaults
    - require:
      - units: vault-unlocked-at-boot
    - watch:
      - file: giggles-vault-adopt.service-installed

vault-timers-run:
  units.running:
    - units: [giggles-vault-lobby.timer, giggles-vault-sweep.timer]
    - require:
      - units: vault-unlocked-at-boot
    - watch:
      - file: giggles-vault-lobby.timer-installed
      - file: giggles-vault-sweep.timer-installed
