"""The manifests are valid: KubeRay's part by tests/data/kuberay_schema.json, all else by Kubernetes' own schema."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
SCHEMA = json.loads((ROOT / "tests" / "data" / "kuberay_schema.json").read_text(encoding="utf-8"))
KUBERNETES = "1.32"
Values = dict[str, Any]


def manifest(name: str) -> Values:
    return dict(yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")))


def templates(found: object) -> Iterator[Values]:
    """Yields the templates of pods inside a resource of KubeRay."""
    for name, value in found.items() if isinstance(found, dict) else ():
        if name in ("template", "submitterPodTemplate"):
            yield value
        else:
            for one in value if isinstance(value, list) else [value]:
                yield from templates(one)


def validate(resource: Values) -> None:
    if resource["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        return
    jsonschema.validate(resource, SCHEMA)
    for template in templates(resource):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def job_with_a_cluster_of_its_own() -> Values:
    """As docs/kubernetes.md describes."""
    job = manifest("rayjob.yaml")
    del job["spec"]["clusterSelector"]
    job["spec"] |= {"rayClusterSpec": manifest("raycluster.yaml")["spec"], "shutdownAfterJobFinishes": True}
    return job


@pytest.mark.parametrize("name", [path.name for path in sorted(FOLDER.iterdir())])
def test_each_manifest_is_valid(name: str) -> None:
    validate(manifest(name))


def test_a_job_with_a_cluster_of_its_own_is_valid() -> None:
    validate(job_with_a_cluster_of_its_own())
    assert len(list(templates(job_with_a_cluster_of_its_own()))) == 2


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.authOptions.mode", "tokens"),
        ("spec.workerGroupSpec", []),
        ("spec.workerGroupSpecs.0.template.spec.nodeSelectors", {}),
        ("spec.workerGroupSpecs.0.template.spec.tolerations.0.effect", 1),
        ("spec.workerGroupSpecs.0.maxReplicas", "2"),
        ("spec.headGroupSpec.template", {}),
    ],
)
def test_wrong_manifests_are_refused(path: str, value: object) -> None:
    resource = copy.deepcopy(manifest("raycluster.yaml"))
    *parents, last = path.split(".")
    inner: Any = resource
    for name in parents:
        inner = inner[int(name) if name.isdecimal() else name]
    inner[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(resource)


def test_the_pods_agree_with_each_other_and_with_what_they_refer_to() -> None:
    cluster = manifest("raycluster.yaml")
    (claim,) = {volume["persistentVolumeClaim"]["claimName"] for pod in templates(cluster)
                for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume}  # fmt: skip
    assert claim == manifest("storage.yaml")["metadata"]["name"]
    assert manifest("rayjob.yaml")["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    pods = [template["spec"] for template in templates(cluster)]
    for pod in pods:
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert environment["TUNE_JOBS_STORAGE"] == mounts["storage"] == "/mnt/tuning"
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    (ray,) = re.findall(r"^ray\[.*==([\d.]+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert cluster["spec"]["rayVersion"] == ray


def test_the_page_names_every_manifest_and_the_names_in_them() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    for path in FOLDER.iterdir():
        assert f"cluster/kubernetes/{path.name}" in page
        assert manifest(path.name)["metadata"]["name"] in page
