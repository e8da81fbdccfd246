{% from "map.jinja" import giggles with context %}
{% import_yaml "hardening/known-files.yaml" as known_files %}
{% import_yaml "hardening/apt-settings.yaml" as apt_settings %}
include:
  - common.validate

# Security updates install themselves; services that run old code restart, and so does the machine when it must, at its hour.
updates-packages:
  pkg.installed:
    - pkgs: [unattended-upgrades, needrestart]
    - install_recommends: False

updates-configured:
  file.managed:
    - name: /etc/apt/apt.conf.d/99-giggles
    - source: salt://hardening/files/etc/apt/apt.conf.d/99-giggles
    - template: jinja
    - context:
        origins: {{ giggles.os.update_origins | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - check_cmd: apt-config dump -c

apt-configured-by-nobody-else:
  strays.absent:
    - folders:
        /etc/apt/apt.conf.d: {{ known_files["/etc/apt/apt.conf.d"] | tojson }}

apt-runs-nobody-elses-commands:
  apt_settings.limited:
    - files: {{ apt_settings | tojson }}

needrestart-configured:
  file.managed:
    - name: /etc/needrestart/conf.d/giggles.conf
    - source: salt://hardening/files/etc/needrestart/conf.d/giggles.conf
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - require:
      - pkg: updates-packages
    - check_cmd: perl -c

needrestart-configured-by-nobody-else:
  strays.absent:
    - folders:
        /etc/needrestart/conf.d: [giggles.conf]
    - require:
      - file: needrestart-configured

busy-jobs-are-known:
  file.managed:
    - name: /usr/local/lib/giggles/idle
    - source: salt://hardening/files/usr/local/lib/giggles/idle
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True

restart-when-idle:
  file.managed:
    - name: /usr/local/lib/giggles/reboot-if-needed
    - source: salt://hardening/files/usr/local/lib/giggles/reboot-if-needed
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
{% for unit in ["apt-daily.timer.d/giggles.conf", "apt-daily-upgrade.timer.d/giggles.conf",
                "apt-daily-upgrade.service.d/giggles.conf", "giggles-reboot.service", "giggles-reboot.timer"] %}
{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://hardening/files/etc/systemd/system/{{ unit }}
    - template: jinja
    - context:
        updates_at: {{ giggles.hardening.updates_at | tojson }}
        reboot_at: {{ giggles.hardening.reboot_at | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False
{%- if not unit.endswith(".conf") %}
    - check_cmd: /usr/local/lib/giggles/verify-unit {{ unit }}
{%- endif %}
    - require:
      - file: unit-verifier-installed
      - file: busy-jobs-are-known
      - file: restart-when-idle
    - onchanges_in:
      - module: updates-units-known
    - watch_in:
      - units: update-timers-run
{% endfor %}
update-units-changed-by-nobody-else:
  strays.absent:
    - folders:
        /etc/systemd/system/apt-daily.timer.d: [giggles.conf]
        /etc/systemd/system/apt-daily.service.d: []
        /etc/systemd/system/apt-daily-upgrade.timer.d: [giggles.conf]
        /etc/systemd/system/apt-daily-upgrade.service.d: [giggles.conf]
        /etc/systemd/system/giggles-reboot.timer.d: []
        /etc/systemd/system/giggles-reboot.service.d: []
    - onchanges_in:
      - module: updates-units-known

updates-units-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges: []

update-timers-run:
  units.running:
    - units: [apt-daily.timer, apt-daily-upgrade.timer, giggles-reboot.timer]
    - require:
      - pkg: updates-packages
      - module: updates-units-known
