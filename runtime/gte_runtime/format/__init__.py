"""The treaty with gte-export: every file format that both sides read or write.

Values and their checks; nothing is run.
"""
