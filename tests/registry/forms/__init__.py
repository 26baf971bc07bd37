"""What commands mean: a table for each kind."""
