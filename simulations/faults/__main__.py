"""`python -m simulations.faults`."""

from simulations.faults.cli import app

if __name__ == "__main__":
    app()
