"""Files to copy for schedulers: they parse, and their commands and variables are what the doors understand."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from mtlora_jax.cli import parse_door
from mtlora_jax.engine.launch import FLAGS, launch_of

FOLDER = Path(__file__).parents[1] / "docs" / "launch"
ALONE = dict.fromkeys(FLAGS)


def commands(text: str) -> list[list[str]]:
    """The arguments of every `python train.py` in a script."""
    lines = re.findall(r"python train\.py (.*)", text.replace("\\\n", " "))
    return [shlex.split(line.partition(" > ")[0]) for line in lines]


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_vm.sh"])
def test_scripts_are_bash_and_start_a_recipe(name):
    path = FOLDER / name
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    (arguments,) = commands(path.read_text())
    door = parse_door(arguments)
    assert door.workdir.name == door.config.name


def test_slurm_s_variables_are_understood():
    text = (FOLDER / "slurm.sbatch").read_text()
    told = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.M))
    tasks = int(told["nodes"]) * int(told["ntasks-per-node"])
    environ = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": "3"}
    assert launch_of(ALONE, environ).where == "SLURM"
    (arguments,) = commands(text)
    config = parse_door(arguments).config
    assert config.train.batch_size % (config.mesh.fsdp * config.mesh.data) == 0
    assert config.mesh.fsdp * config.mesh.data == tasks
    assert told["signal"].startswith("SIGUSR1")


def test_the_jobset_starts_a_process_on_each_host_of_its_slice():
    (job,) = yaml.safe_load((FOLDER / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    chips = eval(pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].replace("x", "*"))
    (container,) = pod["containers"]
    assert spec["parallelism"] == spec["completions"] == chips // container["resources"]["limits"]["google.com/tpu"]
    python, script, *arguments = container["command"]
    assert [python, script] == ["python", "train.py"]
    assert parse_door(arguments).config.train.batch_size % chips == 0
    names = ",".join(f"mtlora-slice-0-{i}" for i in range(spec["completions"]))
    assert launch_of(ALONE, {"TPU_WORKER_HOSTNAMES": names, "TPU_WORKER_ID": "2"}, on_tpu=True).where == "GKE"
