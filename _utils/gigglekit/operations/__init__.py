"""What an operator or a timer asks of the backup: here, and only here, vault and backup meet.

Each operation is a function that returns what is shown and recorded. `_modules/giggles.py` and `__main__` call them.
"""
