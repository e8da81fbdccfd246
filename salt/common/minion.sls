# bootstrap.sh lays the same file before the first apply; here it is kept.
minion-configured:
  file.managed:
    - name: /etc/salt/minion.d/giggles.conf
    - source: salt://common/files/etc/salt/minion.d/giggles.conf
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

minion-has-no-other-configuration:
  file.directory:
    - name: /etc/salt/minion.d
    - user: root
    - group: root
    - mode: '0755'
    - clean: True
    - require:
      - file: minion-configured

secrets-pillar-private:
  file.directory:
    - name: /etc/giggles/pillar
    - user: root
    - group: root
    - dir_mode: '0700'
    - file_mode: '0600'
    - makedirs: True
    - recurse: [user, group, mode]

keys-private:
  file.directory:
    - name: /etc/giggles/keys
    - user: root
    - group: root
    - mode: '0700'
    - makedirs: True

# Root runs what lies here with every converge.
{%- for folder in ["/srv/giggles-salt", "/opt/salt", "/opt/giggles-tools"] %}

code-is-roots-{{ folder }}:
  file.directory:
    - name: {{ folder }}
    - user: root
    - group: root
    - mode: '0755'
{%- endfor %}
