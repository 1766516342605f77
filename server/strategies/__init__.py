"""Strategies: from the updates of a round to the next global model. docs/strategies.md explains."""
