"""One thin module for each framework or store. The package imports none of them; each imports its framework
itself."""
