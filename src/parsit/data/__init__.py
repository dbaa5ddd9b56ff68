"""Floor 3: files to batches. Import from the modules: most of them need no torch."""
