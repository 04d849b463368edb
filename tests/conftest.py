"""Eight CPU devices for every test, set before JAX starts; nothing is skipped for lack of devices."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
