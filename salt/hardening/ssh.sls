{% from "map.jinja" import giggles with context %}
{% from "hardening/second_factor.jinja" import demanded with context %}
include:
  - common.validate
  - hardening.guard
  - hardening.second_factor

ssh-installed:
  pkg.installed:
    - pkgs: [openssh-server, openssh-client]

# sshd -t wants it, and it is gone while sshd is stopped.
/run/sshd:
  file.directory:
    - user: root
    - group: root
    - mode: '0755'
    - require:
      - pkg: ssh-installed

ssh-host-keys-strong:
  login.host_keys:
    - keys: {ed25519: 256, rsa: 4096}
    - require:
      - pkg: ssh-installed
{% if "group-exchange" in giggles.os.ssh.kex %}
ssh-moduli-strong:
  login.moduli:
    - minimum: 3072
    - require:
      - pkg: ssh-installed
{% endif %}
# What somebody added comes first: sshd refuses all of its configuration for one invalid file.
ssh-files-exact:
  strays.absent:
    - folders:
        /etc/ssh: [sshd_config, sshd_config.d, ssh_config.d, moduli, "ssh_host_*_key", "ssh_host_*_key.pub"]
        /etc/ssh/sshd_config.d: [00-giggles.conf]
    - require:
      - pkg: ssh-installed

/etc/ssh/sshd_config.d:
  file.directory:
    - user: root
    - group: root
    - mode: '0755'
    - require:
      - pkg: ssh-installed

/etc/ssh/sshd_config.d/00-giggles.conf:
  file.managed:
    - source: salt://hardening/files/etc/ssh/sshd_config.d/00-giggles.conf
    - template: jinja
    - context:
        admin: {{ giggles.admin.name }}
        ssh: {{ giggles.os.ssh | tojson }}
        ciphers: [chacha20-poly1305@openssh.com, aes256-gcm@openssh.com, aes256-ctr, aes192-ctr, aes128-gcm@openssh.com, aes128-ctr]
        signatures: [sk-ssh-ed25519@openssh.com, ssh-ed25519, rsa-sha2-512, rsa-sha2-256]
        second_factor: {{ demanded }}
    - user: root
    - group: root
    - mode: '0600'
    - check_cmd: /usr/sbin/sshd -t -f
    - require:
      - login: ssh-asks-exactly
      - file: /run/sshd
      - file: /etc/ssh/sshd_config.d
      - login: ssh-host-keys-strong

/etc/ssh/sshd_config:
  file.managed:
    - source: salt://hardening/files/etc/ssh/sshd_config
    - user: root
    - group: root
    - mode: '0600'
    - check_cmd: /usr/local/lib/giggles/validate /etc/ssh /etc/ssh/sshd_config /usr/sbin/sshd -t
    - require:
      - file: validator-installed
      - file: /etc/ssh/sshd_config.d/00-giggles.conf
      - strays: ssh-files-exact

/etc/default/ssh:
  file.managed:
    - source: salt://hardening/files/etc/default/ssh
    - user: root
    - group: root
    - mode: '0644'
    - require:
      - pkg: ssh-installed

# A reload keeps the options that sshd was started with. Sessions survive a restart, too.
ssh-started-without-options:
  cmd.run:
    - name: systemctl try-restart {{ giggles.os.ssh.unit }}
    - onchanges:
      - file: /etc/default/ssh
    - require:
      - login: nobody-else-has-power
      - file: /etc/ssh/sshd_config

# A drop-in could start sshd with options, too.
ssh-unit-unaltered:
  units.unaltered:
    - units: {{ ([giggles.os.ssh.unit ~ ".service"] + ([giggles.os.ssh.socket] if giggles.os.ssh.socket else [])) | tojson }}
    - require:
      - login: nobody-else-has-power
      - file: /etc/ssh/sshd_config

{%- if giggles.os.ssh.socket %}

ssh-socket-open:
  login.socket_listens:
    - require:
      - login: nobody-else-has-power
      - units: ssh-unit-unaltered

ssh-listens:
  units.running:
    - name: {{ giggles.os.ssh.socket }}
    - require:
      - login: ssh-socket-open
    - require_in:
      - units: ssh-runs
{%- endif %}

# The administrator's account and keys come first: from here on nobody else gets in. Reloading keeps sessions.
ssh-runs:
  units.running:
    - name: {{ giggles.os.ssh.unit }}.service
{%- if giggles.os.ssh.socket %}
    - boot: False
    - socket: {{ giggles.os.ssh.socket }}
{%- endif %}
    - reload: True
    - require:
      - login: nobody-else-has-power
      - units: ssh-unit-unaltered
    - watch:
      - file: /etc/ssh/sshd_config
      - file: /etc/ssh/sshd_config.d/00-giggles.conf
      - strays: ssh-files-exact
      - login: ssh-host-keys-strong
