{% from "map.jinja" import giggles with context %}
{% import_yaml "hardening/known-files.yaml" as known_files %}
include:
  - common.builders

# What every machine of ours has in common before it has a task.
#
# Left out although lynis suggests it: a maximum password age (it would lock key-only accounts out, AUTH-9286); hidepid on
# /proc (systemd and polkit stumble over it, FILE-6344); noexec on /tmp (installers run from there, FILE-6374); partitions of
# their own for /home and /var (FILE-6310); libpam-tmpdir, apt-listbugs, apt-listchanges, apt-show-versions (for people who
# install by hand, DEB-0280, DEB-081x, PKGS-7394); auditd, sysstat, a malware scanner and a file integrity tool (memory and
# disk reads on a small machine; drift is what Salt finds, packages are what debsums checks, ACCT-962x, FINT-4350, HRDN-7230);
# USBGuard (a droplet has no ports, USB-3000); a remote log host (LOGG-2154); another port for ssh (SSH-7408).
baseline-packages:
  pkg.installed:
    - pkgs: [acct, cron, debsums, kmod, libpam-pwquality, systemd-timesyncd, tzdata]
    - install_recommends: False

unwanted-packages-absent:
  pkg.purged:
    - pkgs: {{ (["inetutils-telnet", "nis", "openbsd-inetd", "rsh-client", "rsh-redone-client", "talk", "telnet", "tftp",
                 "xinetd"] + giggles.os.unwanted_packages) | tojson }}
{% for path, mode in {
     "default/debsums": "0644", "issue": "0644", "issue.net": "0644", "login.defs": "0644", "modprobe.d/giggles.conf": "0644",
     "profile.d/giggles.sh": "0644", "security/limits.d/giggles.conf": "0644", "security/pwquality.conf": "0644",
     "systemd/coredump.conf.d/giggles.conf": "0644", "systemd/system.conf.d/giggles.conf": "0644",
     "crontab": "0600", "cron.allow": "0600", "at.allow": "0600"}.items() %}
/etc/{{ path }}:
  file.managed:
    - source: salt://hardening/files/etc/{{ path }}
    - user: root
    - group: root
    - mode: '{{ mode }}'
    - makedirs: True
    - require:
      - pkg: baseline-packages
{%- if path.startswith("modprobe.d") %}
    - template: jinja
    - context:
        modules: [cramfs, freevxfs, hfs, hfsplus, jffs2, udf, dccp, sctp, rds, tipc, n-hdlc, ax25, netrom, x25, rose, decnet,
                  econet, appletalk, can, atm, firewire-core, firewire-ohci, firewire-sbp2, usb-storage, uas, thunderbolt]
{%- endif %}
{% endfor %}
service-limits-known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: /etc/systemd/system.conf.d/giggles.conf
      - strays: nobody-else-schedules-or-configures

{% for folder in ["cron.d", "cron.hourly", "cron.daily", "cron.weekly", "cron.monthly"] %}
/etc/{{ folder }}:
  file.directory:
    - user: root
    - group: root
    - mode: '0700'
    - require:
      - pkg: baseline-packages
{% endfor %}
nobody-else-schedules-or-configures:
  strays.absent:
    - folders:
{%- for folder, known in known_files.items() if folder not in ["/etc/apt/apt.conf.d", "/etc/sysctl.d"] %}
        {{ folder }}: {{ (known if folder != "/etc/cron.d" or "nightly" in giggles.roles else []) | tojson }}
{%- endfor %}
    - require:
      - pkg: baseline-packages

# Loaded into every program, and run as root at every boot.
{%- for path in ["/etc/ld.so.preload", "/etc/rc.local"] %}

nobody-else-runs-code-by-{{ path }}:
  file.absent:
    - name: {{ path }}
{%- endfor %}

# A compiler is what an intruder looks for first. Installed later, it is restricted from the start. In the group is only the
# account that the app's packages are built as; nobody can log in to it.
compilers-are-roots:
  dpkg.statoverrides:
    - paths:
      {%- for tool in ["as", "gcc-" ~ giggles.os.gcc, "g++-" ~ giggles.os.gcc, "cpp-" ~ giggles.os.gcc] %}
      - /usr/bin/{{ grains.cpuarch }}-linux-gnu-{{ tool }}
      {%- endfor %}
    - user: root
    - group: giggles-build
    - mode: '0750'
    - require:
      - group: builders-exist

timezone-set:
  file.symlink:
    - name: /etc/localtime
    - target: /usr/share/zoneinfo/{{ giggles.hardening.timezone }}
    - force: True
    - require:
      - pkg: baseline-packages

timezone-named:
  file.managed:
    - name: /etc/timezone
    - contents: {{ giggles.hardening.timezone }}
    - user: root
    - group: root
    - mode: '0644'

baseline-units-unaltered:
  units.unaltered:
    - units: [cron.service, acct.service, systemd-timesyncd.service]
    - require:
      - pkg: baseline-packages

# cron reads the time zone once, when it starts.
cron-runs:
  units.running:
    - name: cron.service
    - require:
      - pkg: baseline-packages
    - watch:
      - file: timezone-set

# systemd leaves the clock of a container to its host and refuses to start the service there.
time-synchronised:
  units.{{ "enabled" if giggles.container else "running" }}:
    - name: systemd-timesyncd.service
    - require:
      - pkg: baseline-packages

processes-accounted:
  units.running:
    - name: acct.service
    - require:
      - pkg: baseline-packages

# Shared memory is for data.
shared-memory-never-executed:
  kernel.mounted_with:
    - name: /dev/shm
    - options: [nosuid, nodev, noexec]

shared-memory-never-executed-after-boot:
  mount.fstab_present:
    - name: tmpfs
    - fs_file: /dev/shm
    - fs_vfstype: tmpfs
    - fs_mntops: rw,nosuid,nodev,noexec
    - mount: False
    - match_on: name
