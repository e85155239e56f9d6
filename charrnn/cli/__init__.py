"""The command line: one Typer command a file. Nothing here imports torch before a command runs."""
