"""Snowflake as the warehouse and the store see it: who logs in, a session, what its errors mean."""
