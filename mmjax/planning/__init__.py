"""Will it fit, and how fast can it be: compiling a run's step for hardware that is not there."""
