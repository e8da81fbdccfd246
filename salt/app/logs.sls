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
