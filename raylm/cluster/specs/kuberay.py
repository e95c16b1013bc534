"""KubeRay: a RayJob for what ends, a RayCluster for what serves; token authentication, a volume for artifacts, a network policy.

Keys: ray.io/v1 of KubeRay 1.6. A RayService is not written: it deploys an application by its import path, and an endpoint of
raylm is deployed by its job, with gateways that listen beside Serve.
"""

from __future__ import annotations

import json
import shlex

from raylm.cluster.contract import Ports
from raylm.cluster.machines import Pool
from raylm.cluster.specs.spec import Spec, header

IMAGE = "REGISTRY/raylm:TAG"
VOLUME = "/shared"
JOB_FOLDER = "/raylm-job"
MOUNTED = f"{JOB_FOLDER}/job.toml"
"""Where the head of a RayJob finds its job file: the image need not have it."""


def render(spec: Spec) -> str:
    """The manifests for `kubectl apply`."""
    docs = [_job(spec), _volume(spec), _policy(spec)]
    docs.append(_service(spec) if spec.ports else _job_file(spec))
    return _header(spec) + "---\n".join(docs)


def _job(spec: Spec) -> str:
    head, *others = spec.pools
    kind = "RayCluster" if spec.ports else "RayJob"
    lines = ["apiVersion: ray.io/v1", f"kind: {kind}", "metadata:", f"  name: {spec.name}", "spec:"]
    cluster = [
        'rayVersion: "2.60.0"',
        "authOptions:",
        "  mode: token",
        "headGroupSpec:",
        "  rayStartParams:",
        '    dashboard-host: "0.0.0.0"',
        *_indent(_template(spec, head, is_head=True), 2),
        *(["workerGroupSpecs:"] if others or head.count > 1 else []),
    ]
    if head.count > 1:
        cluster += _workers(spec, head._replace(name="worker", count=head.count - 1))
    for pool in others:
        cluster += _workers(spec, pool)
    if spec.ports:
        return "\n".join([*lines, *_indent(cluster, 2)]) + "\n"
    lines += _indent(
        [
            "# JSON is YAML: a `--set` may hold what YAML reads otherwise",
            f"entrypoint: {json.dumps(shlex.join(MOUNTED if word == spec.path else word for word in spec.words))}",
            "submissionMode: K8sJobMode",
            "# the same job continues where it was: a new cluster for each of these tries",
            "backoffLimit: 3",
            "shutdownAfterJobFinishes: true",
            "ttlSecondsAfterFinished: 600",
            "rayClusterSpec:",
            *_indent(cluster, 2),
        ],
        2,
    )
    return "\n".join(lines) + "\n"


def _workers(spec: Spec, pool: Pool) -> list[str]:
    return [
        f"  - groupName: {pool.name}",
        f"    replicas: {pool.count}",
        f"    minReplicas: {pool.count}",
        f"    maxReplicas: {pool.count}",
        "    rayStartParams: {}",
        *_indent(_template(spec, pool, is_head=False), 4),
    ]


def _template(spec: Spec, pool: Pool, is_head: bool) -> list[str]:
    ports = Ports.of()
    gpus = [f"nvidia.com/gpu: {pool.gpus}"] if pool.gpus else []
    size = [f'cpu: "{pool.cpus}"', f"memory: {pool.memory_gb}Gi", f"ephemeral-storage: {pool.disk_gb}Gi", *gpus]
    named = [("gcs", ports.gcs), ("dashboard", ports.dashboard), *((f"endpoint-{port}", port) for port in spec.ports)]
    lines = [
        "template:",
        "  spec:",
        "    containers:",
        f"      - name: ray-{'head' if is_head else 'worker'}",
        f"        image: {spec.image or IMAGE}",
        "        env:",
        "          - name: RAYLM_API_KEY",
        "            valueFrom:",
        f"              secretKeyRef: {{name: {_secret(spec)}, key: RAYLM_API_KEY, optional: true}}",
    ]
    if is_head:
        lines += ["        ports:", *(f"          - {{name: {name}, containerPort: {port}}}" for name, port in named)]
    lines += [
        "        resources:",
        "          requests:",
        *(f"            {line}" for line in size),
        "          limits:",
        *(f"            {line}" for line in size[1:]),
        "        volumeMounts:",
        f"          - {{name: artifacts, mountPath: {VOLUME}}}",
        "          - {name: memory, mountPath: /dev/shm}",
        *([f"          - {{name: job, mountPath: {JOB_FOLDER}}}"] if is_head and not spec.ports else []),
        "    volumes:",
        f"      - {{name: artifacts, persistentVolumeClaim: {{claimName: {spec.name}}}}}",
        *([f"      - {{name: job, configMap: {{name: {_job_map(spec)}}}}}"] if is_head and not spec.ports else []),
        f"      - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: {max(1, pool.memory_gb // 3)}Gi}}}}",
    ]
    if pool.gpus:
        lines += ["    tolerations:", "      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}"]
    return lines


def _volume(spec: Spec) -> str:
    return f"""\
# the job's root: --set root={VOLUME}/runs; not needed with a bucket
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {spec.name}
spec:
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: {sum(pool.disk_gb for pool in spec.pools)}Gi
"""


def _job_file(spec: Spec) -> str:
    # lines of spaces alone may stand in a text of several lines: they stay what they are
    lines = "".join(f"    {line}\n" if line else "\n" for line in spec.toml.removesuffix("\n").split("\n"))
    return f"""\
# the job file; other files that it names lie in the image or in a bucket
apiVersion: v1
kind: ConfigMap
metadata:
  name: {_job_map(spec)}
data:
  job.toml: |
{lines}"""


def _job_map(spec: Spec) -> str:
    return f"{spec.name}-file"


def _policy(spec: Spec) -> str:
    doors = "".join(f"        - {{port: {port}, protocol: TCP}}\n" for port in spec.ports)
    # an endpoint's door is open to all; what hands a RayJob over is a pod of a Kubernetes Job, which has none of Ray's labels
    door = f"    - ports:\n{doors}" if spec.ports else ""
    submitter = "" if spec.ports else f"        - podSelector:\n            matchLabels: {{job-name: {spec.name}}}\n"
    return f"""\
# Ray's ports are open to the cluster's own pods and to the operator alone
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {spec.name}
spec:
  podSelector:
    matchLabels: {{ray.io/originated-from-cr-name: {spec.name}}}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels: {{ray.io/originated-from-cr-name: {spec.name}}}
        - namespaceSelector: {{}}
          podSelector:
            matchLabels: {{app.kubernetes.io/name: kuberay-operator}}
{submitter}{door}"""


def _service(spec: Spec) -> str:
    doors = "".join(f"    - {{name: endpoint-{port}, port: {port}, targetPort: {port}}}\n" for port in spec.ports)
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {spec.name}-endpoint
spec:
  selector: {{ray.io/cluster: {spec.name}, ray.io/node-type: head}}
  ports:
{doors}"""


def _secret(spec: Spec) -> str:
    """Of the endpoint's key. KubeRay keeps Ray's token in a Secret with the cluster's own name, and takes one that is there."""
    return f"{spec.name}-key"


def _indent(lines: list[str], by: int) -> list[str]:
    return [" " * by + line for line in lines]


def _header(spec: Spec) -> str:
    how = [
        f"kubectl create secret generic {_secret(spec)} --from-literal=RAYLM_API_KEY=...",
        f"kubectl apply -f {spec.file}",
        f"kubectl get ray{'clusters' if spec.ports else 'jobs'} {spec.name} -w",
    ]
    if spec.ports:
        token = f"$(kubectl get secret {spec.name} -o jsonpath='{{.data.auth_token}}' | base64 -d)"
        how += [
            f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN={token}   # KubeRay made it",
            f"kubectl port-forward svc/{spec.name}-head-svc 8265 & raylm submit {spec.path} --address http://127.0.0.1:8265",
        ]
    return header(spec, "KubeRay", how)
