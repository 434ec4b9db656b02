"""Look inside models through sparse codes.

Importing this package imports nothing heavy: `sparse_rep.store` and the command line start without torch.
"""

__version__ = "0.1.0"
