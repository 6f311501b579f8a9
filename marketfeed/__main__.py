"""`python -m marketfeed`."""

from marketfeed.cli import main

main()
