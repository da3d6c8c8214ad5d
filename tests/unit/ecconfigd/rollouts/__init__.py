"""Golden runs of rollouts, and the world they run in."""
