# What looks at the droplet every five minutes and after each record: it tells once what changed, and draws the status page, which the
# concern web serves on 127.0.0.1:9180.
{%- set units = ["giggles-watch.service", "giggles-watch.timer", "giggles-watch.path"] %}
include:
  - common.validate
  - app.account
  - app.folders
  - monitoring.settings
  - monitoring.mail

# Notes of msmtp on each letter, with addresses.
watch-folder-private:
  file.directory:
    - name: /var/lib/giggles/alerts
    - user: root
    - group: root
    - mode: '0700'
    - follow_symlinks: False
    - require:
      - file: folder-/var/lib/giggles

# Beside /var/lib/giggles, which nginx may not enter.
status-folder:
  file.directory:
    - name: /var/lib/giggles-status
    - user: root
    - group: root
    - mode: '0755'
    - follow_symlinks: False

watch-program-installed:
  file.managed:
    - name: /usr/local/lib/giggles/watch
    - source: salt://monitoring/files/usr/local/lib/giggles/watch
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False
{%- for unit in units %}

{{ unit }}-installed:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://monitoring/files/etc/systemd/system/{{ unit }}
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
    - require:
      - file: unit-verifier-installed
      - file: watch-program-installed
      - file: watch-folder-private
      - file: folder-/var/lib/giggles/records
      - file: status-folder
      - file: status-expectations
      - file: monitoring-settings
{%- if not loop.first %}
      - file: {{ units[0] }}-installed
{%- endif %}
{%- endfor %}

watch-units-unaltered:
  units.unaltered:
    - units: {{ units | tojson }}
    # Not a look that is under way: the next one runs as it should.
    - restart: False

watch-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%- for unit in units %}
      - file: {{ unit }}-installed
{%- endfor %}

watch-runs:
  units.running:
    - units: [giggles-watch.timer, giggles-watch.path]
    - require:
      - module: watch-units-known
      - units: watch-units-unaltered
      - file: mail-settings
    - watch:
      - file: giggles-watch.timer-installed
      - file: giggles-watch.path-installed
      - units: watch-units-unaltered
