#!quiet_yaml
# What only the staging droplet chooses. Its certificate comes from Let's Encrypt's staging directory, which browsers do
# not trust and whose limits production does not share.
giggles:
  environment: staging
  web:
    acme:
      directory: https://acme-staging-v02.api.letsencrypt.org/directory
#  domain: staging.giggles.example.com
#  app:
#    ref: main    # staging may follow a branch; production is pinned
