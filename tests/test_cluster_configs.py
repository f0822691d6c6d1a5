"""`configs/cluster`: what is submitted to schedulers is read by them, says one number of parts, and runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pyramid_seed import gather_parts
from pyramid_seed.batch.part import Part, parse_part
from pyramid_seed.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
SLURM = ROOT / "configs" / "cluster" / "slurm-array.sh"
KUBERNETES = ROOT / "configs" / "cluster" / "kubernetes-indexed-job.yaml"


def test_the_slurm_script_is_bash_and_its_array_has_a_task_for_each_part():
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    assert os.access(SLURM, os.X_OK)
    text = SLURM.read_text()
    last = int(re.search(r"^#SBATCH --array=0-(\d+)$", text, re.MULTILINE)[1])
    assert int(re.search(r"auto/\$\{PARTS:-(\d+)\}", text)[1]) == last + 1
    first_command = next(n for n, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert "#SBATCH" not in "".join(text.splitlines()[first_command:])  # which sbatch would not read


def test_the_kubernetes_job_is_indexed_and_its_pods_run_its_parts():
    job = yaml.safe_load(KUBERNETES.read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never")
    (container,) = pod["containers"]
    options = build_parser().parse_args([*container["command"][1:], *container["args"]])
    last = {"JOB_COMPLETION_INDEX": str(spec["completions"] - 1), "JOB_INDEX_FAILURES": "2"}
    assert parse_part(options.part, last) == Part(spec["completions"] - 1, spec["completions"])
    assert {variable["name"] for variable in container["env"]} == {"JOB_INDEX_FAILURES"}
    mounted = {volume["name"]: volume["mountPath"] for volume in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
    for path in (options.prompts, str(options.output)):
        assert any(path.startswith(f"{mount}/") for mount in mounted.values())


@pytest.mark.slow
def test_the_slurm_script_makes_its_part_and_the_parts_that_gather_names_make_the_rest(tmp_path, quick):
    """With a stand-in for `srun`, which runs what it is given, and the package of this checkout."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, line in {
        "srun": 'exec "$@"',
        "pyramid-seed": f'exec {sys.executable} -m pyramid_seed "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{line}\n")
        (tools / name).chmod(0o755)
    prompts, clips = tmp_path / "list.txt", tmp_path / "clips"
    prompts.write_text("a boat\na sea\na tree\na cat\n")
    given = {name: value for name, value in quick.items() if name != "progress"} | {"num_frames": 1}
    options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PARTS": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }

    def submit(task: int) -> subprocess.CompletedProcess:
        variables = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_RESTART_COUNT": "3"}
        command = [SLURM, prompts, clips, *options]
        return subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, check=False, timeout=300
        )

    done = submit(1)
    assert done.returncode == 0, done.stderr
    assert "part 1/2, restart 3" in (clips / "logs" / "part-1-of-2.log").read_text()
    gathered = gather_parts(clips)
    assert (gathered.status, gathered.parts) == (1, (0,))
    assert submit(0).returncode == 0
    gathered = gather_parts(clips)
    assert (gathered.status, gathered.found) == (0, 4)
    refused = submit(2)
    assert refused.returncode == 2
    assert "--array=0-1" in refused.stderr
