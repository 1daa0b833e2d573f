"""The parts of the quantize pass: observed ranges, choice of parameters, weights, and the nodes that are inserted."""
