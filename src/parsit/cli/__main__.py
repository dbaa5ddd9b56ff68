"""`python -m parsit.cli` is the `parsit` command."""

from parsit.cli.main import main

main()
