# Folders and keys of the volume. The app's own folders (app.folders) come after them.
{%- from "map.jinja" import giggles with context %}
{%- set shared = "backup" in giggles.roles and giggles.backup.get("bucket") is not none %}
include:
  - app.account
  - vault.volume

vault-ledger-private:
  file.directory:
    - name: /var/lib/giggles/ledger
    - user: root
    - group: root
    - mode: '0700'
    - follow_symlinks: False
    - require:
      - file: vault-data-folder

vault-ready:
  vault.ready:
    - shared: {{ shared | tojson }}
    - require:
      - units: vault-mounted
      - file: vault-ledger-private
{%- if shared %}
      - file: backup-settings
{%- endif %}

# Nothing requires this: with a bucket that does not answer, everything else goes on.
vault-key-shared:
  vault.shared:
    - shared: {{ shared | tojson }}
    - require:
      - vault: vault-ready

vaults-private:
  vault.private:
    - user: giggles
    - group: giggles
    - require:
      - vault: vault-ready
