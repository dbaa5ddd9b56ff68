"""Floor 5: one module per verb. Each parses its command line, then imports what it needs and wires the rooms."""
