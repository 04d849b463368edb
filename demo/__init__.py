"""The demo: real image–text pairs, from packages to a trained, evaluated and exported CLIP."""
