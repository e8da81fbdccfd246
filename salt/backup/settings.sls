# What the backup reads: which bucket, with which key, and what is kept. Without a bucket there is no such file.
{%- from "map.jinja" import giggles with context %}
{%- if giggles.backup.bucket %}

# It holds the application key: show_changes keeps its difference out of the state's return, and with it out of every log.
backup-settings:
  file.managed:
    - name: /etc/giggles/backup.json
    - source: salt://backup/files/etc/giggles/backup_json.py
    - template: py
    - context:
        choices: {{ giggles.backup | tojson }}
    - user: root
    - group: root
    - mode: '0600'
    - makedirs: True
    - follow_symlinks: False
    - show_changes: False
{%- else %}

backup-settings:
  file.absent:
    - name: /etc/giggles/backup.json
{%- endif %}
