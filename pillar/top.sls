# Later files win: what everybody shares, then the overlay of this environment, then what bootstrap.sh asked on the
# droplet (/etc/giggles/pillar/droplet.sls: domain, keys and secrets; never in Git).
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
    - droplet
