"""Training a pruned graph to answer as the one before pruning: the graphs run in PyTorch, which is optional."""
