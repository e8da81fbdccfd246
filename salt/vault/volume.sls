# What clips lie on: an ext4 volume whose folders are encrypted, each by its own key. They can never fill the root disk.
{%- from "map.jinja" import giggles with context %}
{%- set image = "/var/lib/giggles/vault.img" %}
{%- set device = giggles.vault.device or image %}
{%- set shared = "backup" in giggles.roles and giggles.backup.get("bucket") is not none %}
include:
  - common.validate
  - app.account
{%- if shared %}
  - backup.settings
{%- endif %}

vault-packages-installed:
  pkg.installed:
    - pkgs: [e2fsprogs, util-linux]
    - install_recommends: False

vault-data-folder:
  file.directory:
    - name: /var/lib/giggles
    - user: root
    - group: giggles
    - mode: '0750'
    - follow_symlinks: False
    - require:
      - user: account-giggles

vault-formed:
  vault.formed:
    - name: {{ image }}
    - size_mb: {{ giggles.vault.size_mb }}
    - device: {{ giggles.vault.device | tojson }}
    - require:
      - pkg: vault-packages-installed
      - file: vault-data-folder

{%- for program in ["vault", "vault-is-open"] %}

{{ program }}-installed:
  file.managed:
    - name: /usr/local/lib/giggles/{{ program }}
    - source: salt://vault/files/usr/local/lib/giggles/{{ program }}
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False
{%- endfor %}
{%- set units = [
  "var-lib-giggles-uploads.mount", "run-giggles-keys.mount", "giggles-vault-unlock.service", "giggles-vault-switch.service",
] %}
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://vault/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - context:
        device: {{ device | tojson }}
        options: {{ "" if giggles.vault.device else "loop," }}
        shared: {{ shared | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      # A choice that is refused is not written down: at the next boot it would be mounted.
      - vault: vault-formed
      - file: unit-verifier-installed
      - file: vault-installed
      - file: vault-is-open-installed
{%- endfor %}

vault-volume-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}
    - restart: False

vault-volume-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

vault-filled:
  vault.filled:
    - device: {{ device | tojson }}
    - shared: {{ shared | tojson }}
    - require:
      - vault: vault-formed
      - module: vault-volume-units-known
{%- if shared %}
      # Says where the share of the key is, or goes.
      - file: backup-settings
{%- endif %}

vault-mounted:
  units.running:
    - name: var-lib-giggles-uploads.mount
    - needs: {{ device | tojson }}
    - require:
      - vault: vault-filled
