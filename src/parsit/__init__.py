"""Parsit: train, evaluate and run vision-language models that read documents."""
