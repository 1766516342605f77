"""`python -m simulations.privacy`."""

from simulations.privacy.cli import app

if __name__ == "__main__":
    app()
