"""The version of this package, in the one place from which builds read it too: no package metadata to search."""

VERSION = "0.1.0"
