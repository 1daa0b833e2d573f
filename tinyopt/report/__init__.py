"""What a compilation did and what it costs, as data and as text."""
