#!quiet_yaml
# What every droplet of this deployment shares. Anything not said here is as in salt/defaults.yaml; docs/PILLAR.md lists
# what may be chosen. Secrets do not belong here: bootstrap.sh keeps them in /etc/giggles/pillar/droplet.sls.
giggles: {}
#  app:
#    repository: https://github.com/owner/giggles-cli.git
#    ref: 0123456789abcdef0123456789abcdef01234567    # a full commit: what was tested is what runs
#    environment:
#      LAUGHTER_THRESHOLD: 0.3
#
#  admin:
#    ssh_keys:
#      - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI... you@laptop
#
#  hardening:
#    timezone: Europe/Berlin
#
#  nightly:
#    at: "02:30"    # in quotes: YAML reads 12:30 as a number
