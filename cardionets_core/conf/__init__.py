"""YAML of the run configuration; data, not code (hydra finds it as a package)."""
