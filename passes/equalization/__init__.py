"""The parts of the equalize-layers pass: which channels share a factor, their statistics, candidates, and the trial."""
