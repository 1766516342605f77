"""A hospital's files in, batches out: manifest, readers, transforms, cache and data set."""
