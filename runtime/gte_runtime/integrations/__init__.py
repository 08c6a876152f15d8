"""One thin module per framework or store. None is imported by the package; each imports its framework itself."""
