"""The command line, one Typer command per file. torch is imported only when a command runs."""
