"""One module per kind of document; each has `make(draw) -> PageTree`."""
