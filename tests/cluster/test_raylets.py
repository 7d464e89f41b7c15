"""A machine joins with one raylet for each GPU model; only the head keeps state, and nothing listens wide."""

from cluster.machines.hardware import Card, Node, split_by_model
from cluster.machines.loopback import SINGLE_MACHINE
from cluster.machines.raylets import HeadOptions, raylet_starts

GIB = 2**30
CARDS = tuple(
    Card(model=model, total_bytes=size * GIB, uuid=f"GPU-{index}", index=index)
    for index, (model, size) in enumerate([("L4", 24), ("A100", 80), ("L4", 24)])
)
MACHINE = Node(name="box", address="10.0.0.2", cpus=12, memory_bytes=96 * GIB)


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments if "=" in argument)


def test_a_mixed_box_is_one_raylet_a_model_with_its_own_cards_labels_and_ports() -> None:
    starts = raylet_starts(
        split_by_model(MACHINE, CARDS), ip="10.0.0.2", head_address="10.0.0.1:6379", temporary="/tmp/ray-1"
    )
    found = {options(start.arguments)["labels"].split("gpu-model=")[1]: start for start in starts}
    assert sorted(found) == ["A100", "L4"]
    assert found["A100"].environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert found["L4"].environment["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-2"
    assert [options(start.arguments)["num-gpus"] for start in starts] == ["1", "2"]
    assert sum(int(options(start.arguments)["num-cpus"]) for start in starts) == 12
    ports = [(options(s.arguments)["min-worker-port"], options(s.arguments)["max-worker-port"]) for s in starts]
    assert ports == [("20010", "20999"), ("21010", "21999")]
    single = [name for name in options(starts[0].arguments) if name.endswith("-port") and "worker" not in name]
    assert len(single) == 6
    assert [name for name in single if len({options(start.arguments)[name] for start in starts}) == 1] == []
    assert [options(start.arguments)["metrics-export-port"] for start in starts] == ["8090", "8091"]
    assert [options(start.arguments).get("temp-dir") for start in starts] == [
        "/tmp/ray-1/ray",
        "/tmp/ray-1/ray/raylet1",
    ]


def test_the_head_keeps_its_state_and_its_dashboard_on_loopback() -> None:
    head, second = raylet_starts(
        split_by_model(MACHINE, CARDS),
        ip="10.0.0.1",
        head=HeadOptions(state_dir="/srv/ray", autoscaling_config="a.yaml"),
        temporary="/tmp/ray-1",
    )
    assert head.arguments[:3] == ("start", "--head", "--port=6379")
    assert options(head.arguments)["dashboard-host"] == "127.0.0.1"
    assert head.environment["RAY_gcs_storage"] == "rocksdb"
    assert head.environment["RAY_gcs_storage_path"] == "/srv/ray"
    assert options(second.arguments)["address"] == "10.0.0.1:6379"
    assert "RAY_gcs_storage" not in second.environment


def test_every_raylet_asks_for_a_token_unless_told_otherwise() -> None:
    (start,) = raylet_starts([MACHINE], ip="10.0.0.2", head_address="10.0.0.1:6379", temporary="/tmp/ray-1")
    assert start.environment == {
        "RAY_AUTH_MODE": "token",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "RAY_TMPDIR": "/tmp/ray-1",
    }
    assert start.shell().startswith(
        "RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=120 RAY_TMPDIR=/tmp/ray-1 ray start --address=10.0.0.1:6379 "
    )
    (open_start,) = raylet_starts(
        [MACHINE], ip="10.0.0.2", head_address="10.0.0.1:6379", token=False, temporary="/tmp/ray-1"
    )
    assert open_start.environment["RAY_AUTH_MODE"] == "disabled"


def test_logical_cards_hide_no_real_ones() -> None:
    cards = tuple(Card(model=model, total_bytes=24 * GIB) for model in ("a", "b"))
    starts = raylet_starts(
        split_by_model(MACHINE, cards), ip="10.0.0.2", head_address="h:1", spill_dir="/scratch", temporary="/tmp/ray-1"
    )
    assert ["CUDA_VISIBLE_DEVICES" in start.environment for start in starts] == [False, False]
    assert {options(start.arguments)["object-spilling-directory"] for start in starts} == {"/scratch"}


def test_a_machine_alone_is_started_so_that_ray_keeps_its_loopback() -> None:
    for ip, variable in (("127.0.0.1", "0"), ("10.0.0.2", None)):
        (start,) = raylet_starts([MACHINE], ip=ip, head=HeadOptions(state_dir="/srv/ray"), temporary="/tmp/ray-1")
        assert start.environment.get(SINGLE_MACHINE) == variable
