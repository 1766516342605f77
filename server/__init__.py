"""The coordinator: one Flower ServerApp, our own rounds, exact aggregation, tracking."""
