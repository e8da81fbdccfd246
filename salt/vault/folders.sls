# Folders and keys of the volume. The app's own folders (app.folders) come after them.
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
    - require:
      - units: vault-mounted
      - file: vault-ledger-private

vaults-private:
  vault.private:
    - user: giggles
    - group: giggles
    - require:
      - vault: vault-ready
