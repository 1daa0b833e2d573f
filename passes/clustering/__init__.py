"""Weights that share few values: codebooks, which weight takes which, and how many values a layer needs."""
