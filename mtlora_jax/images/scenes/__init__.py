"""The procedural scenes: a world drawn at random, and its picture by ray casting."""
