{% from "map.jinja" import giggles with context %}
# The journal outlives a restart, and neither fills the disk nor keeps personal data longer than it may.
journal-kept-on-disk:
  file.directory:
    - name: /var/log/journal
    - user: root
    - group: systemd-journal
    - mode: '2755'

journal-limited:
  file.managed:
    - name: /etc/systemd/journald.conf.d/giggles.conf
    - source: salt://hardening/files/etc/systemd/journald.conf.d/giggles.conf
    - template: jinja
    - context:
        max_mb: {{ giggles.hardening.journal_max_mb }}
        max_days: {{ giggles.hardening.journal_max_days }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

journal-limited-by-nobody-else:
  strays.absent:
    - folders:
        /etc/systemd/journald.conf.d: [giggles.conf]

journal-restarted:
  cmd.run:
    - name: systemctl restart systemd-journald.service && journalctl --flush
    - onchanges:
      - file: journal-kept-on-disk
      - file: journal-limited
      - strays: journal-limited-by-nobody-else
