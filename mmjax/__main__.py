"""`python -m mmjax` is the command `mmjax`."""

from mmjax.cli import main

main()
