"""Salt's own programs below /opt/salt: several beside each other, of which the link `current` is in force.

Whatever is put there is built beside what runs, tried, and takes its place by the rename of a link, so that a run that is killed leaves
one that works. It is done by a Python that need not be Salt's, and this package imports nothing but the standard library.
"""
