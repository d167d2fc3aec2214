"""`python -m vidseg` is the command line, where the `vidseg` command is not on the path."""

from vidseg.cli.main import main

if __name__ == "__main__":
    main()
