include:
  - common.builders

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

# Packages of the app are built as somebody who is neither root nor the app, sees no secret and cannot log in.
account-giggles-build:
  user.present:
    - name: giggles-build
    - fullname: Builds packages of the Giggles app
    - system: True
    - gid: giggles-build
    - groups: []
    - remove_groups: True
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin
    - password: '!'
    - require:
      - group: builders-exist
