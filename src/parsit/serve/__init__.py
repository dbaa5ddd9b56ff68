"""Serving: requests in, answers and readings out, over HTTP. Knows an engine and a reader, no model and no tensor."""
