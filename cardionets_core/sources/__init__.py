"""What hospitals store, in all its formats -> one recording, one set of facts."""
