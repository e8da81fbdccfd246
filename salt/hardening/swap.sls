{% from "map.jinja" import giggles with context %}
# Web app and nightly job together need more than the memory there is.
{% if giggles.hardening.swap_mb %}
swap-in-use:
  swap.file:
    - name: /swapfile
    - size_mb: {{ giggles.hardening.swap_mb }}
    - own_kernel: {{ not giggles.container }}

swap-in-use-after-boot:
  mount.fstab_present:
    - name: /swapfile
    - fs_file: none
    - fs_vfstype: swap
    - fs_mntops: sw
    - match_on: device
    - mount: False
    - require:
      - swap: swap-in-use
{% else %}
swap-not-in-use-after-boot:
  mount.fstab_absent:
    - name: /swapfile
    - fs_file: none

swap-not-in-use:
  swap.absent:
    - name: /swapfile
    - own_kernel: {{ not giggles.container }}
    - require:
      - mount: swap-not-in-use-after-boot
{% endif %}
