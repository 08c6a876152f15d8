"""A checkpoint becomes a bundle: numpy only, atomic, proven before it has a name."""
