"""One of several processes: prints the errors of every ring loss, for test_contrastive."""

import oracle

from mmjax.parallel import distributed, ring
from mmjax.parallel.mesh import make_mesh

if __name__ == "__main__":
    distributed.initialize()
    ring.TILE_ENTRIES = 8
    on = make_mesh(data=4, fsdp=2)
    for name in oracle.LOSSES:
        value, gradients = oracle.errors(name, "random", 14.3, "ring", on)
        print(name, value, max(gradients))
