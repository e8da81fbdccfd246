# Later files win: what everybody shares, then the overlay of this environment, then what is in no Git: what all droplets of a
# fleet share and what one of them is for (docs/FLEET.md), or what bootstrap.sh asked on the droplet
# (/etc/giggles/pillar/droplet.sls: domain, keys and secrets).
base:
  '*':
    - giggles
  'giggles_environment:production':
    - match: grain
    - production
  'giggles_environment:staging':
    - match: grain
    - staging
  'giggles_environment:*':
    - match: grain
    # A droplet without answers is refused by _pillar/giggles.py, which knows what to do about it.
    - ignore_missing: True
    - fleet
    - droplets.{{ grains.id }}
    - droplet
