"""`python -m scalops` is the command `scalops`."""

from scalops.cli import main

if __name__ == "__main__":
    main()
