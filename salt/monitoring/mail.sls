# How alerts leave the droplet. Not msmtp-mta: it would take the place of a mail server that somebody installed, and everything that
# mails root (cron, for one) would leave the droplet, personal data included.
{%- from "map.jinja" import giggles with context %}
{%- if giggles.monitoring.mail.to and giggles.monitoring.mail.host %}

mail-client-installed:
  pkg.installed:
    - name: msmtp
    - install_recommends: False

mail-certificates-installed:
  pkg.installed:
    - name: ca-certificates

# It holds the password: show_changes keeps its difference out of the state's return.
mail-settings:
  file.managed:
    - name: /etc/msmtprc
    - source: salt://monitoring/files/etc/msmtprc.py
    - template: py
    - context:
        choices: {{ {"domain": giggles.domain, "monitoring": giggles.monitoring} | tojson }}
    - user: root
    - group: root
    - mode: '0600'
    - follow_symlinks: False
    - show_changes: False
    - require:
      - pkg: mail-client-installed
{%- else %}

mail-settings:
  file.absent:
    - name: /etc/msmtprc
{%- endif %}
