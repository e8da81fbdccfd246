{%- from "map.jinja" import giggles with context %}
include:
  - nightly.job

cron-installed:
  pkg.installed:
    - name: cron

cron-running:
  units.running:
    - name: cron.service
    - require:
      - pkg: cron-installed

nightly-scheduled:
  file.managed:
    - name: /etc/cron.d/giggles-nightly
    - source: salt://nightly/files/etc/cron.d/giggles-nightly
    - template: jinja
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - require:
      - pkg: cron-installed
      - file: nightly-unit
