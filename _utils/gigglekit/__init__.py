"""The library behind Giggles' Salt modules: plain Python that imports nothing from Salt."""
