"""`python -m daybreak` is the `daybreak` command."""

from daybreak.cli import main

if __name__ == "__main__":
    main()
