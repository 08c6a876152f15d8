"""`python -m gte_runtime` is `gte`."""

from .cli import main

if __name__ == "__main__":
    main()
