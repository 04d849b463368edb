"""What the launchers would run, with the clouds' own programs replaced by ones that take notes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmjax.errors import UserError
from mmjax.parallel.machines import machine

LAUNCH = Path(__file__).parents[2] / "launch"
RUN = [
    "mmjax",
    "train",
    "--distributed",
    "--config=configs/clip_vit_b16.py",
    "--workdir=gs://b/x y",
]
SHELL = [LAUNCH / "tpu_vm.sh", LAUNCH / "slurm" / "submit.sh", LAUNCH / "slurm" / "train.sbatch"]
NOTE = '#!/usr/bin/env bash\nprintf "%s\\n" "$(basename "$0") $*" >> "$NOTES"\n'
# A queued resource that is there once created; the first time, it is preempted under the run.
GCLOUD = """
case "$*" in
    *describe*) cat "$NOTES.state" ;;
    *"resources create"*) echo ACTIVE > "$NOTES.state" ;;
    *"resources delete"*) rm "$NOTES.state" ;;
    *follow*)
        test -f "$NOTES.once" && exit 0
        touch "$NOTES.once"; echo SUSPENDED > "$NOTES.state"; exit 255 ;;
    *"cat status"*) grep -q ACTIVE "$NOTES.state" && echo "${STATUS:-0}" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """`cloud(program, script)` puts a program on the PATH; `cloud.notes()` is what was called."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("MMJAX_POLL", "0.05")

    def install(program, script=""):
        (tmp_path / program).write_text(NOTE + script)
        (tmp_path / program).chmod(0o755)

    install.notes = lambda: (tmp_path / "notes").read_text().splitlines()
    return install


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)


def jobset(*arguments, command=RUN):
    return run(sys.executable, LAUNCH / "gke" / "jobset.py", "--name=b16", "--image=IMAGE",
               *arguments, "--", *command)  # fmt: skip


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    checked = run(shutil.which("shellcheck", path=Path(sys.executable).parent), path)
    assert checked.returncode == 0, checked.stdout


def test_skypilot_task(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert set(task["envs"]) == {"CONFIG", "RUN", "EXTRA"}
    for part in ("setup", "run"):
        (tmp_path / part).write_text(f"#!/bin/bash\n{task[part]}")
        checked = run(shutil.which("shellcheck", path=Path(sys.executable).parent), tmp_path / part)
        assert checked.returncode == 0, checked.stdout
    home = tmp_path / "env" / "bin"
    home.mkdir(parents=True)
    (home / "mmjax").write_text('#!/bin/sh\necho "$MMJAX_COORDINATOR $MMJAX_PROCESS $*"\n')
    (home / "mmjax").chmod(0o755)
    environ = {
        "HOME": str(tmp_path), "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_NODES": "2", "CONFIG": "c.py", "RUN": "gs://b/x", "PATH": os.environ["PATH"],
    }  # fmt: skip
    done = subprocess.run(["bash", tmp_path / "run"], env=environ, capture_output=True, text=True)
    assert done.stdout == "10.0.0.1:8476 1 train --distributed --config=c.py --workdir=gs://b/x\n"


@pytest.mark.parametrize(
    ("topology", "slices", "hosts", "chips", "accelerator"),
    [
        ("v5e:16x16", 1, 64, 4, "v5litepod-256"),
        ("v5e:2x4", 1, 1, 8, "v5litepod-8"),
        ("4*v6e:8x8", 4, 16, 4, "v6e-64"),
        ("v5p:4x4x8", 1, 32, 4, "v5p-256"),
        ("h100:32x8", 1, 32, 8, ""),
    ],
)
def test_machines_of_a_topology(topology, slices, hosts, chips, accelerator):
    found = machine(topology)
    assert (found.slices, found.hosts, found.chips) == (slices, hosts, chips)
    assert found.accelerator_type == accelerator


def test_machine_that_nobody_has():
    with pytest.raises(UserError, match="no slice 3x3"):
        machine("v5e:3x3")


def test_jobset_of_tpu_slices():
    done = jobset("--topology=4*v5e:16x16", "--spot", "--env=A=b=c", "--dry-run")
    assert done.returncode == 0, done.stderr
    plan, apply, manifest = done.stdout.split("\n", 2)
    assert plan == "mmjax plan '--topology=4*v5e:16x16' --config=configs/clip_vit_b16.py"
    assert apply == "kubectl apply --filename=-"
    found = yaml.safe_load(manifest)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert list(found["metadata"]["annotations"].values()) == ["cloud.google.com/gke-nodepool"]
    (rule,) = found["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    (jobs,) = found["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    assert (jobs["replicas"], job["parallelism"], job["completions"]) == (4, 64, 64)
    assert job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [75]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # as a podFailurePolicy wants it
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["name"] == job["podFailurePolicy"]["rules"][1]["onExitCodes"]["containerName"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"] == RUN
    assert container["env"] == [{"name": "A", "value": "b=c"}]


def test_jobset_of_gpu_hosts_says_who_they_are():
    done = jobset("--topology=h100:4x8", "--no-plan", "--dry-run")
    found = yaml.safe_load(done.stdout.partition("\n")[2])
    assert found["metadata"]["annotations"] == {}
    (jobs,) = found["spec"]["replicatedJobs"]
    pod = jobs["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {entry["name"]: entry for entry in container["env"]}
    assert environ["MMJAX_COORDINATOR"]["value"] == "b16-workers-0-0.b16:8476"
    assert environ["MMJAX_PROCESSES"]["value"] == "4"
    assert "job-completion-index" in environ["MMJAX_PROCESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_jobset_is_applied(cloud):
    cloud("kubectl", 'cat > "$NOTES.manifest"\n')
    done = jobset("--topology=v5e:4x4", "--no-plan")
    assert done.returncode == 0, done.stderr
    assert cloud.notes() == ["kubectl apply --filename=-"]
    manifest = Path(os.environ["NOTES"] + ".manifest").read_text()
    assert yaml.safe_load(manifest)["metadata"]["name"] == "b16"


def test_xpk_gets_the_same_job(cloud):
    cloud("xpk")
    done = jobset("--topology=4*v5e:16x16", "--xpk=C", "--no-plan")
    assert done.returncode == 0, done.stderr
    (call,) = cloud.notes()
    assert call.startswith(
        "xpk workload create --workload=b16 --cluster=C --tpu-type=v5litepod-256"
    )
    assert "--num-slices=4" in call
    assert call.endswith("--command=" + " ".join(RUN[:-1]) + " '--workdir=gs://b/x y'")


def test_command_that_would_run_alone_on_every_host():
    done = jobset("--topology=v5e:4x4", "--dry-run", command=["mmjax", "train", "--workdir=w"])
    assert done.returncode == 2
    assert "add --distributed" in done.stderr


def test_plan_that_does_not_fit_stops_the_launch(cloud, monkeypatch):
    cloud("kubectl")
    config = [*RUN, "--config.optim.lrate=1"]
    done = jobset("--topology=v5e:4x4", command=config)
    assert done.returncode == 2
    assert "config.optim.lrate: there is no such key" in done.stderr
    assert not Path(os.environ["NOTES"]).exists()


def tpu_vm(action, *options):
    return run(LAUNCH / "tpu_vm.sh", action, "--name=b16", "--zone=Z", *options)


def test_tpu_run_that_is_preempted_starts_again(cloud):
    cloud("gcloud", GCLOUD)
    options = ["--topology=2*v6e:4x4", "--no-plan", "--delete", "--spot", "--", *RUN]
    done = tpu_vm("up", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "preempted; going on" in done.stdout
    made = [n for n in cloud.notes() if "resources create" in n]
    assert len(made) == 2
    assert "--accelerator-type=v6e-16" in made[0]
    assert "--node-count=2 --node-prefix=b16" in made[0]
    assert made[0].endswith("--zone=Z") or "--spot" in made[0]
    started = [n for n in cloud.notes() if "nohup" in n]
    assert len(started) == 2 * 2  # slices, twice
    assert len([n for n in cloud.notes() if "tpu-vm scp" in n]) == 4
    assert "resources delete b16" in cloud.notes()[-1]


@pytest.mark.parametrize(("status", "starts"), [(2, 1), (9, 2)])
def test_tpu_run_that_fails(cloud, monkeypatch, status, starts):
    cloud("gcloud", GCLOUD)
    monkeypatch.setenv("STATUS", str(status))
    Path(os.environ["NOTES"] + ".once").touch()  # no preemption
    done = tpu_vm("up", "--topology=v6e:4x4", "--no-plan", "--max-restarts=1", "--", *RUN)
    assert done.returncode == status
    assert len([n for n in cloud.notes() if "nohup" in n]) == starts
    assert not [n for n in cloud.notes() if "resources delete" in n]  # to look at


def test_tpu_command_reaches_the_host_unharmed(cloud, tmp_path):
    keep = 'for a; do [[ $a != --command=*nohup* ]] || echo "${a#*=}" > "$NOTES.sh"; done'
    cloud("gcloud", keep + GCLOUD)
    cloud("mmjax", "exit 7\n")
    Path(os.environ["NOTES"] + ".once").touch()
    tpu_vm("up", "--topology=v6e:4x4", "--no-plan", "--", *RUN)
    (tmp_path / "home" / "mmjax").mkdir(parents=True)
    script = Path(os.environ["NOTES"] + ".sh").read_text() + "\nwait\n"
    environ = os.environ | {"HOME": str(tmp_path / "home")}
    subprocess.run(["bash", "-c", script], env=environ, cwd=tmp_path / "home", timeout=30)
    assert cloud.notes()[-1] == "mmjax " + " ".join(RUN[1:])
    assert (tmp_path / "home" / "status").read_text() == "7\n"


def test_tpu_dry_run_calls_nothing(cloud):
    cloud("gcloud")
    done = tpu_vm("up", "--topology=v6e:4x4", "--dry-run", "--", *RUN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mmjax plan --topology=v6e:4x4")
    assert "queued-resources create b16 --accelerator-type=v6e-16" in done.stdout
    assert not Path(os.environ["NOTES"]).exists()


def test_slurm_submission(cloud):
    cloud("sbatch")
    submit = LAUNCH / "slurm" / "submit.sh"
    done = run(submit, "--topology=h100:4x8", "--no-plan", "--time=1:00", "--container=a.sif", "--",
               *RUN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cloud.notes() == [
        "sbatch --nodes=4 --gpus-per-node=8 --export=ALL,MMJAX_CONTAINER=a.sif --time=1:00 "
        "launch/slurm/train.sbatch " + " ".join(RUN)
    ]
    dry = run(submit, "--topology=h100:4x8", "--dry-run", "--", *RUN)
    assert dry.stdout.splitlines()[1].startswith("sbatch --nodes=4 --gpus-per-node=8 launch/slurm")
    assert "is a TPU" in run(submit, "--topology=v5e:4x4", "--", *RUN).stderr


@pytest.mark.parametrize(
    ("topology", "status", "said"),
    [
        ("rtx4090:4x8", 0, "--nodes=4 --gpus-per-node=8"),
        ("2x1", 0, "--nodes=2 --gpus-per-node=1"),
        ("h100:4x8", 0, "--nodes=4 --gpus-per-node=8"),
        ("v5e:4x4", 2, "is a TPU"),
        ("rtx4090", 2, "write GENERATION:SHAPE"),
    ],
)
def test_slurm_takes_any_gpu_without_a_plan(topology, status, said):
    submit = LAUNCH / "slurm" / "submit.sh"
    done = subprocess.run(
        [submit, f"--topology={topology}", "--no-plan", "--dry-run", "--", "sleep", "1"],
        capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("status", [0, 9, 75])
def test_slurm_job_goes_back_into_the_queue_when_it_has_saved(cloud, monkeypatch, status):
    cloud("srun", f"exit {status}\n")
    cloud("scontrol")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("MMJAX_CONTAINER", "a.sif")
    done = run("bash", LAUNCH / "slurm" / "train.sbatch", *RUN)
    assert done.returncode == status
    call, *rest = cloud.notes()
    assert call.startswith("srun --kill-on-bad-exit=1")
    assert call.endswith("apptainer exec --nv a.sif " + " ".join(RUN))
    assert rest == (["scontrol requeue 17"] if status == 75 else [])


def test_slurm_script_outlives_the_signal_that_its_processes_get(cloud, monkeypatch):
    cloud("srun", "kill -TERM $PPID; sleep 0.5; exit 75\n")
    cloud("scontrol")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert run("bash", LAUNCH / "slurm" / "train.sbatch", *RUN).returncode == 75
    assert cloud.notes()[-1] == "scontrol requeue 17"


def test_local_dry_run_prints_every_process():
    done = run(sys.executable, LAUNCH / "local.py", "--processes=2", "--dry-run", "--", *RUN)
    lines = done.stdout.splitlines()
    assert [f"MMJAX_PROCESS={n} mmjax train" in line for n, line in enumerate(lines)] == [
        True,
        True,
    ]
