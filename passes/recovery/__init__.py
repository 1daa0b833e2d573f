"""Bringing the outputs of a pruned model's layers back to those that the unpruned model's layers give."""
