"""Wiring of the steps for Airflow; scoring.py is the one file that makes DAGs."""
