"""One run: what was asked for, what it uses, and what it writes down. The plugin and the cases stand on this.

Import its modules, not this package's names: options and plan are light, run and bench bring drgn, scipy and paramiko.
"""
