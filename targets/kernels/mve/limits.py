"""What the Helium kernels have in common."""

ANY_SIZE = 1 << 24  # of a buffer whose extent is not known when the function is compiled
