"""From a scan in HU to its line: phantom rods found and fitted, or a regression on a reference scan."""
