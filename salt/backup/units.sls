# What backs up every night and restores every week, by itself. Without a bucket there is none of it.
{%- from "map.jinja" import giggles with context %}
{%- set units = ["giggles-backup.service", "giggles-backup.timer", "giggles-drill.service", "giggles-drill.timer"] %}
include:
  - common.validate
  - app.account
  - app.folders
  - backup.settings
{%- if giggles.backup.bucket %}
  - backup.packages
{%- if "monitoring" in giggles.roles %}
  - monitoring.pings
{%- endif %}

backup-folder-private:
  file.directory:
    - name: /var/lib/giggles/backup
    - user: root
    - group: root
    - mode: '0700'
    - follow_symlinks: False
    - require:
      - file: folder-/var/lib/giggles

# The vault keeps it too, where there is one.
backup-ledger-private:
  file.directory:
    - name: /var/lib/giggles/ledger
    - user: root
    - group: root
    - mode: '0700'
    - follow_symlinks: False
    - require:
      - file: folder-/var/lib/giggles

backup-program-installed:
  file.managed:
    - name: /usr/local/lib/giggles/backup
    - source: salt://backup/files/usr/local/lib/giggles/backup
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://backup/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - file: backup-program-installed
      - file: backup-folder-private
      - file: backup-settings
{%- if "monitoring" in giggles.roles %}
      - file: ping-program-installed
{%- endif %}
{%- endfor %}

backup-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}
    # Not a backup or a drill that is at work: the next one runs as it should.
    - restart: False

backup-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

backup-timers-run:
  units.running:
    - units: [giggles-backup.timer, giggles-drill.timer]
    - require:
      - module: backup-units-known
      - units: backup-units-unaltered
    - watch:
      - file: giggles-backup.timer-installed
      - file: giggles-drill.timer-installed
      - units: backup-units-unaltered
{%- else %}

backup-units-absent:
  units.absent:
    - units: {{ units | tojson }}
{%- endif %}
