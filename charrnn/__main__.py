"""The installed command, which is also `python -m charrnn`."""

from charrnn.cli.signals import end_process_on_signals

end_process_on_signals()  # first of all: what follows takes a while to import

from charrnn.cli.app import main  # noqa: E402

if __name__ == "__main__":
    main()
