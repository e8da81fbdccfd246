{% from "map.jinja" import giggles with context %}
{% import_yaml "hardening/kernel.yaml" as parameters %}
{% import_yaml "hardening/known-files.yaml" as known_files %}
{% do parameters.update({"kernel.perf_event_paranoid": giggles.os.perf_event_paranoid}) %}
# The kernel gives away little, trusts no packet that comes the wrong way, and keeps the model in memory.
kernel-configured:
  file.managed:
    - name: /etc/sysctl.d/99-zz-giggles.conf
    - source: salt://hardening/files/etc/sysctl.d/99-zz-giggles.conf
    - template: jinja
    - context:
        parameters: {{ parameters | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: True

kernel-configured-by-nobody-else:
  strays.absent:
    - folders:
        /etc/sysctl.d: {{ known_files["/etc/sysctl.d"] | tojson }}

kernel-hardened:
  kernel.parameters:
    - values: {{ parameters | tojson }}
    - own_kernel: {{ not giggles.container }}
    - require:
      - file: kernel-configured
      - strays: kernel-configured-by-nobody-else
