"""The command line: each command in the file of its kind."""
