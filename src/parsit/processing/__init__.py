"""Floor 2: one conversation to tensors. Images, tiles, chat format, the processor. No network, no weights.

Import from the modules: `images` is used by verbs that answer before torch is needed, and an import here
would bring torch to them all.
"""
