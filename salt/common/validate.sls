# What every concern needs before it may touch a configuration file.
validator-installed:
  file.managed:
    - name: /usr/local/lib/giggles/validate
    - source: salt://common/files/usr/local/lib/giggles/validate
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True

unit-verifier-installed:
  file.managed:
    - name: /usr/local/lib/giggles/verify-unit
    - source: salt://common/files/usr/local/lib/giggles/verify-unit
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True
    - follow_symlinks: False
