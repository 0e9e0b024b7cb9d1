"""``python -m ebmstruct`` is the command."""

from ebmstruct.cli import command

if __name__ == "__main__":
    command()
