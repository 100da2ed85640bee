"""`python -m selfplay.reference`."""

from selfplay.reference.page import main

main()
