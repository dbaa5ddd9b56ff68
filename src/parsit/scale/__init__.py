"""Piles of files over processes and machines. Knows a reader and its engine, no tensor.

What is to be read becomes records that are kept by what they depend on: the file's content, the page, the model, the
prompt and how pages are read. So a run that was killed goes on where it was, and another model begins another set.
"""
