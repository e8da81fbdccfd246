# The account that the app runs as: it cannot log in, belongs to no other group, and owns nothing but the app's data.
account-group-giggles:
  group.present:
    - name: giggles
    - system: True

account-giggles:
  user.present:
    - name: giggles
    - fullname: Giggles app
    - system: True
    - gid: giggles
    - groups: []
    - remove_groups: True
    - home: /var/lib/giggles
    - createhome: False
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: account-group-giggles
