"""Which channels leave a graph, and how many of each layer."""
