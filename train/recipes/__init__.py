"""The shipped training recipes, one TOML file each."""
