# A droplet of a fleet is told what to be from elsewhere. It keeps what it was told, so that everything that works on a droplet by itself
# works on this one too: its self-converge, its timers, salt-call. Where nobody tells it anything, there is nothing of this.
{%- set pushed = pillar.get("giggles_pushed", {}) %}
{%- if pushed %}
include:
  - common.minion

tree-is-the-same:
  commit.at:
    - name: /srv/giggles-salt
    - commit: {{ pushed.commit | tojson }}
    - order: first
    - failhard: True

answers-kept:
  file.managed:
    - name: /etc/giggles/pillar/droplet.sls
    - source: salt://common/files/etc/giggles/pillar/droplet_sls.py
    - template: py
    - user: root
    - group: root
    - mode: '0600'
    - follow_symlinks: False
    - show_changes: False
    - require:
      - file: secrets-pillar-private

environment-kept:
  file.managed:
    - name: /etc/salt/grains
    - contents: {{ ("giggles_environment: " ~ grains.giggles_environment) | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False

# By itself it would go by its host name, which need not be the name that its fleet knows it by.
name-kept:
  file.managed:
    - name: /etc/salt/minion_id
    - contents: {{ grains.id | tojson }}
    - contents_newline: False
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False

# Without this file salt-call complains.
minion-file-present:
  file.managed:
    - name: /etc/salt/minion
    - replace: False
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True
    - follow_symlinks: False
{%- endif %}
