"""Specs of every kind: what is written for real jobs, and the files in cluster/, held to what the provisioners take.

The keys of SkyPilot are those of its 0.14.1 task schema (`sky.utils.schemas`), kept here as facts: it cannot be installed beside
vLLM. `RAYLM_SKY_PYTHON` names the interpreter of an environment that has it, and then it reads the files itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from raylm import cli
from raylm.cluster.contract import TOKEN
from raylm.cluster.machines import Pool
from raylm.cluster.specs import kuberay, ray_up, slurm
from raylm.cluster.specs.spec import Spec

ROOT = Path(__file__).resolve().parents[2]
SKY_TASK = {
    *(
        "name",
        "num_nodes",
        "workdir",
        "resources",
        "secrets",
        "envs",
        "setup",
        "run",
        "file_mounts",
        "volumes",
        "service",
        "pool",
    ),
    *("config", "inputs", "outputs", "event_callback", "api_server_access", "managed_secrets"),
}
SKY_RESOURCES = {
    *("accelerators", "accelerator_args", "any_of", "ordered", "autostop", "cpus", "disk_size", "disk_tier", "image_id", "infra"),
    *("instance_type", "job_recovery", "labels", "local_disk", "max_hourly_cost", "memory", "network_tier", "ports", "priority"),
    *("use_spot", "volumes", "ephemeral_storage", "priority_class"),
}
# what SkyPilot's schema takes in silence and its launch does not
SKY_RECOVERY = {"FAILOVER", "EAGER_NEXT_REGION"}
SKY_GPUS = {"H100", "H200", "B200", "A100", "A100-80GB", "L4", "L40S", "A10G", "T4", "V100"}
SETS = [
    'stages.policy.workers={count = 8, gpus = 1, device = "h100"}',
    "stages.policy.generator={count = 4, gpus = 1}",
    "root=s3://bucket/runs",
]


def rendered(kind: str, job: str = "jobs/grpo.toml", sets: list[str] = SETS) -> str:
    told = io.StringIO()
    words = [word for each in sets for word in ("--set", each)]
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(ROOT):
        assert cli.main(["cluster", "render", job, "--to", kind, "--out", "-", *words]) == 0
    return told.getvalue()


def check_command(line: str) -> None:
    """A spec's command is one that raylm understands, for a job of this checkout."""
    words = shlex.split(line.strip())
    words = words[next(at for at, word in enumerate(words) if word.endswith("raylm")) :]
    if words[1:3] == ["cluster", "start"]:
        parsed = cli._parser().parse_args(words[1:])
        words = parsed.words[1:]
    parsed = cli._parser().parse_args(words[1:])
    assert (ROOT / parsed.job).is_file(), line


def check_sky(text: str) -> None:
    task = yaml.safe_load(text)
    assert set(task) <= SKY_TASK
    resources = task["resources"]
    assert set(resources) <= SKY_RESOURCES
    if gpus := resources.get("accelerators"):
        assert gpus.partition(":")[0] in SKY_GPUS
    if recovery := resources.get("job_recovery"):
        assert recovery["strategy"] in SKY_RECOVERY
        assert resources["use_spot"]
    # secrets that stand in `envs` are shown
    assert TOKEN in task["secrets"] and not task.get("envs")
    check_command(task["run"].splitlines()[-1])


def check_kuberay(text: str) -> None:
    docs = list(yaml.safe_load_all(text))
    ray = docs[0]
    assert (ray["apiVersion"], ray["kind"] in ("RayJob", "RayCluster")) == ("ray.io/v1", True)
    cluster = ray["spec"].get("rayClusterSpec", ray["spec"])
    assert set(cluster) <= {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    if ray["kind"] == "RayJob":
        # the job file comes with the manifests, and lies where the entrypoint looks for it
        (brought,) = [doc for doc in docs if doc["kind"] == "ConfigMap"]
        pod = cluster["headGroupSpec"]["template"]["spec"]
        (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "job"]
        assert {"name": "job", "configMap": {"name": brought["metadata"]["name"]}} in pod["volumes"]
        ((name, toml),) = brought["data"].items()
        (original,) = [path for path in (ROOT / "jobs").glob("*.toml") if tomllib.loads(path.read_text()) == tomllib.loads(toml)]
        there = f"{mount['mountPath']}/{name}"
        assert there in shlex.split(ray["spec"]["entrypoint"])
        check_command(ray["spec"]["entrypoint"].replace(there, str(original)))
    for group in [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        assert all("value" not in variable for variable in container["env"]), "a secret stands in the manifest"
    kinds = [doc["kind"] for doc in docs[1:]]
    assert {"PersistentVolumeClaim", "NetworkPolicy"} <= set(kinds)


def check_ray_up(text: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(text)
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert config["max_workers"] == sum(each["max_workers"] for each in types.values())


def check_slurm(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)
    lines = text.splitlines()
    # behind the first command Slurm reads no more of them
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[0] == "#!/usr/bin/env bash"
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    check_command(next(line for line in lines if line.startswith("srun")))


CHECKS = {"sky": check_sky, "kuberay": check_kuberay, "ray-up": check_ray_up, "slurm": check_slurm}


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("job", ["grpo", "serve"])
def test_what_is_written_is_what_the_provisioner_takes(kind, job):
    text = rendered(kind, f"jobs/{job}.toml", SETS if job == "grpo" else ["root=s3://bucket/runs"])
    CHECKS[kind](text)


def test_an_endpoint_keeps_its_cluster_and_its_key():
    sky = yaml.safe_load(rendered("sky", "jobs/serve.toml", []))
    assert sky["resources"]["ports"] == [8000]
    assert "use_spot" not in sky["resources"] and "autostop" not in sky["resources"]
    assert "RAYLM_API_KEY" in sky["secrets"]
    assert "--stay" in sky["run"] and "host=0.0.0.0" in sky["run"]


def test_several_machines_need_a_root_that_all_of_them_see(capsys):
    words = [word for each in SETS[:2] for word in ("--set", each)]
    with contextlib.chdir(ROOT):
        assert cli.main(["cluster", "render", "jobs/grpo.toml", "--to", "sky", "--out", "-", *words]) == 1
    assert "root = 'runs' is relative" in capsys.readouterr().err


def test_a_gpu_without_a_name_is_refused_where_it_needs_one(capsys):
    with contextlib.chdir(ROOT):
        words = ["--set", "stages.api.workers={cpus = 4, gpus = 1}"]
        assert cli.main(["cluster", "render", "jobs/serve.toml", "--to", "sky", "--out", "-", *words]) == 1
        assert "SkyPilot must know which GPU" in capsys.readouterr().err
        assert cli.main(["cluster", "render", "jobs/serve.toml", "--to", "kuberay", "--out", "-", *words]) == 0


FILES = sorted(path for path in (ROOT / "cluster").rglob("*") if path.suffix in (".yaml", ".sh") and "rendered" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_of_the_folder_are_true(path):
    kind = path.parent.name if path.parent.name in CHECKS else "ray-up"
    CHECKS[kind](path.read_text())


def test_all_shapes_are_there():
    assert {path.relative_to(ROOT / "cluster").as_posix() for path in FILES} >= {
        *("sky/data.yaml", "sky/train.yaml", "sky/rl.yaml", "sky/serve.yaml", "kuberay/rl.yaml", "kuberay/serve.yaml"),
        *("slurm/train.sh", "ray-up.yaml"),
    }


@pytest.mark.skipif("RAYLM_SKY_PYTHON" not in os.environ, reason="RAYLM_SKY_PYTHON names no interpreter with skypilot 0.14")
def test_skypilot_itself_reads_its_files():
    read = "import sky, sys; [print(sky.Task.from_yaml(path).num_nodes) for path in sys.argv[1:]]"
    files = [str(path) for path in FILES if path.parent.name == "sky"]
    variables = {**os.environ, TOKEN: "x", "RAYLM_API_KEY": "x", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    told = subprocess.run(
        [os.environ["RAYLM_SKY_PYTHON"], "-c", read, *files], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert len(told.stdout.split()) == len(files)


GPU = Pool("head", 2, 8, 32, 100, gpus=1, device="h100")


def spec(*words: str, job: str = "grpo", ports: tuple[int, ...] = ()) -> Spec:
    return Spec(job, f"jobs/{job}.toml", ("raylm", "run", f"jobs/{job}.toml", *words), (GPU,), GPU, ports, file="x.yaml")


def test_what_yaml_reads_otherwise_is_a_command_all_the_same():
    words = ("--set", "stages.x.system=Answer: yes # or no")
    made = next(yaml.safe_load_all(kuberay.render(spec(*words))))
    assert shlex.split(made["spec"]["entrypoint"])[-2:] == list(words)


def test_kuberay_takes_the_name_and_its_submitter_passes_the_policy():
    text = kuberay.render(spec(job="x" * 80))
    job, _, policy, _ = yaml.safe_load_all(text)
    # MaxRayJobNameLength of KubeRay: it refuses longer ones
    assert len(job["metadata"]["name"]) == 47
    froms = policy["spec"]["ingress"][0]["from"]
    # the pod of the Kubernetes Job that submits has that label, and none of Ray's
    assert {"podSelector": {"matchLabels": {"job-name": job["metadata"]["name"]}}} in froms


def test_the_secret_of_the_endpoint_is_not_the_one_in_which_kuberay_keeps_its_token():
    text = kuberay.render(spec(job="serve", ports=(8000,)))
    cluster = next(yaml.safe_load_all(text))
    (variable,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    secret = variable["valueFrom"]["secretKeyRef"]["name"]
    assert secret != cluster["metadata"]["name"] and f"create secret generic {secret} " in text
    # who submits needs that token
    assert f"RAY_AUTH_TOKEN=$(kubectl get secret {cluster['metadata']['name']} " in text


def test_a_step_of_slurm_has_the_cores_of_its_machine():
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=8 " in slurm.render(spec())


def test_what_aws_has_only_in_larger_machines_is_said():
    few = GPU._replace(gpus=2, cpus=20)
    text = ray_up.render(spec()._replace(pools=(few,)))
    assert "# 2 x p5.48xlarge: 8 h100 each, 2 of them are used" in text
    (made,) = yaml.safe_load(text)["available_node_types"].values()
    assert (made["node_config"]["InstanceType"], made["resources"]["GPU"]) == ("p5.48xlarge", 8)
    # one GPU and few cores: there is such a machine
    assert ray_up.instance(GPU) == ("p5.4xlarge", 1)
    assert ray_up.larger(spec()) == []


def test_jobs_that_are_submitted_to_ray_up_find_python():
    config = yaml.safe_load(ray_up.render(spec()))
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert 'PATH="$HOME/raylm/.venv/bin:$PATH"' in command
        subprocess.run(["bash", "-n"], input=command.encode(), check=True)


@pytest.mark.parametrize("kind", ["sky", "kuberay"])
def test_a_machine_that_goes_with_its_job_needs_a_root_elsewhere(kind, capsys):
    with contextlib.chdir(ROOT):
        assert cli.main(["cluster", "render", "jobs/pretrain.toml", "--to", kind, "--out", "-"]) == 1
    assert "root = 'runs' is relative" in capsys.readouterr().err


STRICT = """
import sys, yaml, kubernetes_validate
for path in sys.argv[1:]:
    for doc in yaml.safe_load_all(open(path)):
        docs = [doc]
        if doc["apiVersion"] == "ray.io/v1":
            cluster = doc["spec"].get("rayClusterSpec", doc["spec"])
            groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
            docs = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]} for group in groups]
        for each in docs:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
            print(each["kind"])
"""


@pytest.mark.skipif("RAYLM_KUBE_PYTHON" not in os.environ, reason="RAYLM_KUBE_PYTHON names none with kubernetes-validate, pyyaml")
def test_kubernetes_takes_pods_and_what_stands_beside_them(tmp_path):
    files = [str(path) for path in FILES if path.parent.name == "kuberay"]

    def validated(paths: list[str]) -> subprocess.CompletedProcess[str]:
        command = [os.environ["RAYLM_KUBE_PYTHON"], "-c", STRICT, *paths]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    told = validated(files)
    assert told.returncode == 0, told.stderr
    assert {"Pod", "PersistentVolumeClaim", "NetworkPolicy", "ConfigMap", "Service"} <= set(told.stdout.split())
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path(files[0]).read_text().replace("mountPath", "mountPaht", 1))
    assert "mountPaht" in validated([str(wrong)]).stderr


def test_a_job_file_is_brought_as_it_is():
    text = 'name = "x"\n\ntext = """\n  a\n  \n\tb\n"""\nlast = 1\n'
    pool = Pool("cpu", 1, 2, 4, 10)
    spec = Spec("x", "jobs/x.toml", ("raylm", "run", "jobs/x.toml"), (pool,), pool, (), toml=text)
    assert yaml.safe_load(kuberay._job_file(spec))["data"] == {"job.toml": text}
