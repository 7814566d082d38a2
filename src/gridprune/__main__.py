"""`python -m gridprune`: the command line, where no script is on the path."""

from .cli.main import app

if __name__ == "__main__":
    app(prog_name="gridprune")
