"""The machinery behind `trial/droplet`: throwaway droplets and their neighbours on one machine."""
