"""Running what was compiled: on this machine or on an emulated one, checked and measured."""
