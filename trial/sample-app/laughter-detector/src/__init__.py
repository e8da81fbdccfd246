"""Sample app that stands in for Giggles on a trial droplet."""
