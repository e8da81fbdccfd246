{% from "map.jinja" import giggles with context %}
{% set admin = giggles.admin.name %}
include:
  - common.validate
  - hardening.guard

sudo-installed:
  pkg.installed:
    - pkgs: [sudo, passwd]

# Debian has groups of its own called operator, staff and users, which useradd would trip over.
admin-group-exists:
  group.present:
    - name: {{ admin }}

admin-exists:
  user.present:
    - name: {{ admin }}
    - shell: /bin/bash
    - home: /home/{{ admin }}
    - gid: {{ admin }}
    # An account past its date is refused by sshd whatever its key.
    - expire: -1
    - require:
      - pkg: sudo-installed
      - group: admin-group-exists

admin-home-private:
  file.directory:
    - name: /home/{{ admin }}
    - user: {{ admin }}
    - group: {{ admin }}
    - mode: '0750'
    - require:
      - user: admin-exists

admin-ssh-folder-private:
  file.directory:
    - name: /home/{{ admin }}/.ssh
    - user: {{ admin }}
    - group: {{ admin }}
    - mode: '0700'
    - require:
      - file: admin-home-private

admin-keys-exact:
  file.managed:
    - name: /home/{{ admin }}/.ssh/authorized_keys
    - contents: {{ giggles.admin.ssh_keys | tojson }}
    - user: {{ admin }}
    - group: {{ admin }}
    - mode: '0600'
    - require:
      - file: admin-ssh-folder-private

# What somebody added comes first: an invalid file in sudoers.d makes sudo refuse everybody.
sudoers-drop-ins-exact:
  strays.absent:
    - folders:
        /etc/sudoers.d: [giggles]
    - require:
      - pkg: sudo-installed

/etc/sudoers.d:
  file.directory:
    - user: root
    - group: root
    - mode: '0750'
    - require:
      - pkg: sudo-installed
{% for path in ["sudoers.d/giggles", "sudoers"] %}
/etc/{{ path }}:
  file.managed:
    - source: salt://hardening/files/etc/{{ path }}
    - template: jinja
    - context:
        admin: {{ admin }}
        password: {{ giggles.admin.sudo_password }}
    - user: root
    - group: root
    - mode: '0440'
    - check_cmd: visudo -c -q -f
    - require:
      - user: admin-exists
      - file: /etc/sudoers.d
      - strays: sudoers-drop-ins-exact
{% endfor %}
nobody-else-has-power:
  login.accounts_exact:
    - admin: {{ admin }}
    - admin_password: {{ giggles.admin.sudo_password }}
    - groups:
        sudo: [{{ admin }}]
        adm: [{{ admin }}]
        {%- for group in ["admin", "wheel", "root", "shadow", "disk", "docker", "lxd", "giggles", "giggles-build", "www-data"] %}
        {{ group }}: []
        {%- endfor %}
    - require:
      - file: /etc/sudoers.d/giggles
      - file: admin-keys-exact

{%- for file, mode, group in [("passwd", "0644", "root"), ("group", "0644", "root"), ("shadow", "0640", "shadow"), ("gshadow", "0640", "shadow")] %}

account-file-/etc/{{ file }}:
  file.managed:
    - name: /etc/{{ file }}
    - replace: False
    - create: False
    - user: root
    - group: {{ group }}
    - mode: '{{ mode }}'
    - require:
      - pkg: sudo-installed
{%- endfor %}
