"""`python -m charrnn` is the installed command."""

from charrnn.cli.app import main

if __name__ == "__main__":
    main()
