"""`python -m training.boxes`."""

from .cli import app

if __name__ == "__main__":
    app()
