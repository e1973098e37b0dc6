"""The command line: words, paths and exit codes; no numerics. One file a verb, each with its `command`."""
