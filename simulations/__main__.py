"""`python -m simulations`: the same as `cardionets-simulate`."""

from simulations.cli import app

if __name__ == "__main__":
    app()
