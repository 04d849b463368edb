"""A training job on Google Kubernetes Engine: TPU slices or GPU hosts, as a JobSet.

    python launch/gke/jobset.py --name=b16 --topology=4*v5e:16x16 --image=IMAGE --dry-run -- \\
        mmjax train --distributed --config=configs/clip_vit_b16.py --workdir=gs://BUCKET/b16

Renders the manifest and gives it to `kubectl apply`; with --xpk=CLUSTER, runs `xpk workload create`
instead. --dry-run prints what would be run and applied.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mmjax.errors import Preempted, UserError
from mmjax.parallel.machines import Machine, machine

CHECK = Path(__file__).parents[1] / "check.py"
PORT = 8476  # of the coordinator, where we choose it
JOBS = "workers"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or the status of the first command that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="of the job, in the cluster")
    parser.add_argument("--topology", required=True, help="as for mmjax plan: v5e:16x16, h100:4x8")
    parser.add_argument("--image", required=True, help="container image (launch/Dockerfile)")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--spot", action="store_true", help="only on spot nodes")
    parser.add_argument(
        "--max-restarts", type=int, default=3, help="after errors; preemptions are free"
    )
    parser.add_argument("--grace", type=int, default=120, help="seconds to save in when preempted")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--xpk", metavar="CLUSTER", help="through xpk, on that cluster (TPU)")
    parser.add_argument("--no-plan", action="store_true", help="do not compile for it first")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    wrong = [pair for pair in args.env if "=" not in pair]
    if wrong:
        parser.error(f"--env={wrong[0]}: write NAME=VALUE")
    try:
        found = machine(args.topology)
    except UserError as error:
        parser.error(str(error))
    flags = [*["--no-plan"][: args.no_plan], *["--dry-run"][: args.dry_run]]
    checking = [sys.executable, str(CHECK), f"--topology={args.topology}", *flags, "--", *command]
    if status := subprocess.run(checking).returncode:
        return status

    if args.xpk:
        if not found.accelerator_type:
            parser.error(f"--xpk starts TPUs; leave it out for {args.topology}")
        running, manifest = xpk(args, found, command), ""
    else:
        running = ["kubectl", "apply", "--filename=-"]
        manifest = yaml.safe_dump(jobset(args, found, command), sort_keys=False)
    if args.dry_run:
        print(shlex.join(running), manifest, sep="\n", end="")
        return 0
    try:
        return subprocess.run(running, input=manifest, text=True).returncode
    except FileNotFoundError:
        parser.error(f"{running[0]} is not installed")


def jobset(args: argparse.Namespace, found: Machine, command: Sequence[str]) -> dict[str, Any]:
    """The manifest: one Job a slice, one Pod a host.

    A Pod that was preempted, or asked to end and has saved, restarts the whole JobSet for free;
    errors do so up to `max_restarts` times.
    """
    again = [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]},
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "train", "operator": "In", "values": [Preempted.STATUS],
            },
        },
    ]  # fmt: skip
    job = {
        "parallelism": found.hosts,
        "completions": found.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": again},
        "template": {"spec": pod(args, found, command)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": args.name,
            "namespace": args.namespace,
            # The hosts of a slice, and of no other job, are the nodes of one pool.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            }
            if found.gke_shape
            else {},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": args.max_restarts,
                "restartStrategy": "BlockingRecreate",  # the old ones hold the coordinator's port
                "rules": [
                    {
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": JOBS, "replicas": found.slices, "template": {"spec": job}}],
        },
    }


def pod(args: argparse.Namespace, found: Machine, command: Sequence[str]) -> dict[str, Any]:
    environment = [dict(zip(("name", "value"), e.split("=", 1), strict=True)) for e in args.env]
    if found.gke_shape:  # GKE tells the hosts of TPU slices who they are
        resource = "google.com/tpu"
        labels = {
            "cloud.google.com/gke-tpu-accelerator": found.gke_label,
            "cloud.google.com/gke-tpu-topology": found.gke_shape,
        }
    else:
        resource, labels = "nvidia.com/gpu", {"cloud.google.com/gke-accelerator": found.gke_label}
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        environment += [
            {"name": "MMJAX_COORDINATOR", "value": f"{args.name}-{JOBS}-0-0.{args.name}:{PORT}"},
            {"name": "MMJAX_PROCESSES", "value": str(found.hosts)},
            {"name": "MMJAX_PROCESS", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        ]
    if args.spot:
        labels["cloud.google.com/gke-spot"] = "true"
    return {
        "restartPolicy": "Never",
        "hostNetwork": True,  # no overlay between the hosts
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": args.grace,
        "nodeSelector": labels,
        "tolerations": [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [
            {
                "name": "train",
                "image": args.image,
                "command": list(command),
                "env": environment,
                "resources": {"limits": {resource: found.chips}},
                "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
            }
        ],
        # Batches come from the loader's worker processes through it; 64 MB are the default.
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }


def xpk(args: argparse.Namespace, found: Machine, command: Sequence[str]) -> list[str]:
    """The same job for xpk, which writes a JobSet of its own."""
    return [
        "xpk", "workload", "create", f"--workload={args.name}", f"--cluster={args.xpk}",
        f"--tpu-type={found.accelerator_type}", f"--num-slices={found.slices}",
        f"--docker-image={args.image}", f"--max-restarts={args.max_restarts}",
        f"--restart-on-exit-codes={Preempted.STATUS}",
        f"--termination-grace-period-seconds={args.grace}",
        *(f"--env={pair}" for pair in args.env), f"--command={shlex.join(command)}",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
