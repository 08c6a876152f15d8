"""How fast an engine is, measured on the user's own machine and bundle.

`latency` measures, `texts` makes what is measured, `statistics` sums it up, `machine` says where.
Nothing here prints.
"""
