"""Prefect's wiring of the steps."""
