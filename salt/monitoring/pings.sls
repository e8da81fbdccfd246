# What units tell a check elsewhere at their start and end.
include:
  - monitoring.settings

ping-program-installed:
  file.managed:
    - name: /usr/local/lib/giggles/ping
    - source: salt://monitoring/files/usr/local/lib/giggles/ping
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False
    - require:
      - file: monitoring-settings
