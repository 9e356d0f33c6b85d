"""What a snapshot must hold before it is scored, and the rows that are set aside."""
