"""Names to bundles: those that ship, those that were pulled, the hub.

`hub` is the only module of the package that goes online.
"""
