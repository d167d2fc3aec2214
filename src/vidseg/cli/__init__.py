"""The `vidseg` command line: one thin file per command."""
