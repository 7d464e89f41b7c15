"""Connects this process to a running Ray cluster, or raises an error with the reason in one sentence."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.machines.loopback import is_loopback, keep_loopback
from cluster.machines.ray_folder import own_address
from cluster.machines.tokens import AUTH_MODE
from tuning_common.errors import RequestError

ANSWER_S = 8.0  # a head answers in milliseconds; Ray would retry for two minutes and then end the process
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"  # gRPC's health checking protocol, which Ray's head supports
_ONE_ATTEMPT = {"RAY_gcs_server_port_wait_time_s": "1"}  # otherwise Ray retries a refused token for 20 s
_START = "python -m cluster start starts one"


@contextmanager
def connected_to(address: str, **options: object) -> Iterator[None]:
    """Connects to a cluster, unless this process is already connected.

    Args:
        address: "IP:PORT" of the head; "auto" for the cluster of this machine.
        options: Other arguments of `ray.init`.

    Raises:
        RequestError: When nothing answers there, or the cluster refuses this process.
    """
    os.environ.setdefault(AUTH_MODE, "token")  # Ray reads it on import
    import ray

    if ray.is_initialized():
        yield
        return
    found = own_address() if address == "auto" else address
    if found is None:  # Ray would take any head in the process list, also of another user
        raise RequestError(
            f"no cluster of this user runs on this machine; {_START}; for another cluster give IP:PORT of its head"
        )
    check_head(found)
    if is_loopback(found):
        keep_loopback()
    before = {name: os.environ.get(name) for name in _ONE_ATTEMPT}
    os.environ.update(_ONE_ATTEMPT)
    try:
        ray.init(found, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RequestError(f"cannot connect to the cluster at {found}: {_reason(error)}") from None
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    try:
        yield
    finally:
        ray.shutdown()


def check_head(address: str, answer_s: float = ANSWER_S) -> None:
    """Checks that a cluster's head is healthy.

    Args:
        address: "IP:PORT".
        answer_s: Longest wait for its answer, in seconds.

    Raises:
        RequestError: When the address is invalid, or no head answers.
    """
    import grpc

    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise RequestError(
            f"{address}: Ray's client protocol cannot run sweeps; on a machine of the cluster use the head's IP:PORT"
            " (6379 by default) or auto, from elsewhere python -m tune_jobs submit"
        )
    if not host or not port.isdecimal():
        raise RequestError(f"{address!r} is not a cluster's address; write IP:PORT of its head, or auto")
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_HEALTH_CHECK)(b"", timeout=answer_s)
        except grpc.RpcError as error:
            is_late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            why = f"no answer in {answer_s:g} s" if is_late else str(error.details()).rpartition(": ")[2]
            raise RequestError(f"no cluster answers at {address}: {why}", [_START]) from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if text.startswith("Failed to connect to Ray cluster"):  # the head is healthy: it has answered
        return "it refuses this process's token; bring the cluster's ~/.ray/auth_token here (python -m cluster token)"
    return text
