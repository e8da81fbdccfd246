include:
  - app.folders
  - app.packages

# systemd opens a log as root before it drops its rights. So the folder is root's: the app cannot put a link there.
web-log-private:
  file.managed:
    - name: /var/log/giggles/web.log
    - user: giggles
    - group: giggles
    - mode: '0640'
    - replace: False
    - follow_symlinks: False
    - require:
      - file: folder-/var/log/giggles

# The lines of both logs hold e-mail addresses, so they live 14 days.
logs-rotated:
  file.managed:
    - name: /etc/logrotate.d/giggles
    - source: salt://app/files/etc/logrotate.d/giggles
    - user: root
    - group: root
    - mode: '0644'
    - follow_symlinks: False
    - check_cmd: logrotate -d
    - require:
      - pkg: app-packages-installed

# How big a log is, is looked at every hour: in a day, an app that writes all the time would fill the disk.
logs-watched-hourly:
  file.managed:
    - name: /etc/systemd/system/logrotate.timer.d/giggles.conf
    - source: salt://app/files/etc/systemd/system/logrotate.timer.d/giggles.conf
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False
    - require:
      - pkg: app-packages-installed

logs-timer-changed-by-nobody-else:
  strays.absent:
    - folders:
        /etc/systemd/system/logrotate.timer.d: [giggles.conf]
        /etc/systemd/system/logrotate.service.d: []

logs-timer-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: logs-watched-hourly
      - strays: logs-timer-changed-by-nobody-else

logs-timer-runs:
  units.running:
    - name: logrotate.timer
    - require:
      - module: logs-timer-known
    - watch:
      - file: logs-watched-hourly
      - strays: logs-timer-changed-by-nobody-else
