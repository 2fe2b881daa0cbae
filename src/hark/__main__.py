"""`python -m hark` is the command `hark`."""

from hark.cli import main

if __name__ == "__main__":
    main()
