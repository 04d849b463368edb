"""The pure heart: the train step, its views, its state, the optimizer, and what it computes."""
