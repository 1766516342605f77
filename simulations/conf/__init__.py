"""YAML of the simulated federations; data, not code (hydra finds it as a package)."""
