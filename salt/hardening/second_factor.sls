{% from "map.jinja" import giggles with context %}
{% from "hardening/second_factor.jinja" import demanded with context %}
include:
  - hardening.guard

# A code from a phone, asked for after the key. What PAM asks is exact in both cases: a line put before it by hand could let in
# anybody who has the key.
second-factor-chosen:
  login.second_factor:
    - admin: {{ giggles.admin.name }}
    - wanted: {{ giggles.hardening.ssh_second_factor }}
{% if demanded %}
second-factor-installed:
  pkg.installed:
    - name: libpam-google-authenticator
    - install_recommends: False

/usr/local/lib/giggles/ssh-answer:
  file.managed:
    - source: salt://hardening/files/usr/local/lib/giggles/ssh-answer
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True

/etc/giggles/second-factor:
  file.directory:
    - user: root
    - group: root
    - mode: '0700'

# The module refuses a file that others may read, and with it the administrator. This is the mode that it writes it with.
/etc/giggles/second-factor/{{ giggles.admin.name }}:
  file.managed:
    - replace: False
    - create: False
    - user: root
    - group: root
    - mode: '0400'
    - require:
      - login: second-factor-chosen
{% endif %}
ssh-asks-exactly:
  login.asks:
    - name: /etc/pam.d/sshd
    - lines:
{%- if demanded %}
      - 'auth required pam_google_authenticator.so secret=/etc/giggles/second-factor/${USER} user=root noskewadj allow_readonly [authtok_prompt=Code: ]'
    - require:
      - pkg: ssh-installed
      - pkg: second-factor-installed
      - file: /usr/local/lib/giggles/ssh-answer
      - file: /etc/giggles/second-factor
      - file: /etc/giggles/second-factor/{{ giggles.admin.name }}
      - login: second-factor-chosen
{%- else %}
      - '@include common-auth'
    - require:
      - pkg: ssh-installed
{%- endif %}
