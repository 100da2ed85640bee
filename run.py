"""`python run.py ARGUMENTS` is `selfplay ARGUMENTS`, with the configs of this folder's conf/."""

from selfplay import interrupts

interrupts.watch()  # before the slow imports below

from selfplay.main import main

if __name__ == "__main__":
    main()
