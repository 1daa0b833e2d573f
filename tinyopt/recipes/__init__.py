"""Recipes: the options of a compilation in a TOML file, and the lock that lets it be done again to the same bytes."""

from tinyopt.recipes.lock import LOCK_NAME, Lock, Origin, make_lock
from tinyopt.recipes.reading import Recipe, read_recipe

__all__ = ["LOCK_NAME", "Lock", "Origin", "Recipe", "make_lock", "read_recipe"]
