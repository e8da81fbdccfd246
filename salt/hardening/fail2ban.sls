{% from "map.jinja" import giggles with context %}
include:
  - common.validate

fail2ban-installed:
  pkg.installed:
    - pkgs: [fail2ban, nftables, python3-systemd]

# What somebody added comes first: fail2ban does not start with one invalid file.
fail2ban-files-exact:
  strays.absent:
    - folders:
        /etc/fail2ban: []
        /etc/fail2ban/action.d: []
        /etc/fail2ban/fail2ban.d: []
        /etc/fail2ban/filter.d: []
        /etc/fail2ban/jail.d: [giggles.local]
    - require:
      - pkg: fail2ban-installed

/etc/fail2ban/jail.d/giggles.local:
  file.managed:
    - source: salt://hardening/files/etc/fail2ban/jail.d/giggles.local
    - template: jinja
    - context:
        ban: {{ giggles.hardening.ssh_ban | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - check_cmd: /usr/local/lib/giggles/validate /etc/fail2ban /etc/fail2ban/jail.d/giggles.local fail2ban-client -t
    - require:
      - file: validator-installed
      - strays: fail2ban-files-exact

fail2ban-unit-unaltered:
  units.unaltered:
    - units: [fail2ban.service]
    - require:
      - file: /etc/fail2ban/jail.d/giggles.local

fail2ban-runs:
  units.running:
    - name: fail2ban.service
    - reload: True
    - watch:
      - file: /etc/fail2ban/jail.d/giggles.local
      - strays: fail2ban-files-exact
