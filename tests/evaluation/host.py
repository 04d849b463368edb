"""One of several processes of an evaluation, for test_hosts: `host.py NUMBER COUNT PORT SPECS`."""

import json
import sys

import jax
import small_run

from mmjax import evaluation
from mmjax.parallel.mesh import make_mesh


def evaluate(specs):
    config, model, params = small_run.run()
    tokenizer = small_run.tokenizer()
    return {
        name: evaluation.build(name, spec, evaluation.Subject.of(config, model, tokenizer))(params)
        for name, spec in specs.items()
    }


if __name__ == "__main__":
    number, count, port, specs = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", int(count), int(number))
    with jax.set_mesh(make_mesh(data=2, fsdp=2)):
        print("RESULT", json.dumps(evaluate(json.loads(specs))))
