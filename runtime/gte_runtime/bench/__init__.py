"""Measures how fast a model runs, on the user's machine and bundle. Nothing here prints.

`latency` measures, `texts` makes the texts, `statistics` summarises, `machine` describes the machine.
"""
