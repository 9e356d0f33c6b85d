"""Spark sessions: how they are configured, opened and closed; for the engine and the warehouse."""
