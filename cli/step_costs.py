"""What steps cost a server while something runs, from two answers of its AdminService."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from pagewire.errors import from_rpc_error
from pagewire.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from cli.own_server import OwnServer

TIMEOUT_S = 10.0


def ask_stats(server: OwnServer) -> admin_pb2.GetStatsResponse:
    """Return the counters of this moment.

    Raises:
        PagewireError: the server does not tell.
    """
    metadata = (("authorization", f"Bearer {server.admin_key}"),)
    with grpc.insecure_channel(server.admin_target) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            return stub.GetStats(admin_pb2.GetStatsRequest(), timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


def step_figures(
    before: admin_pb2.GetStatsResponse, after: admin_pb2.GetStatsResponse, wall_s: float
) -> dict[str, float]:
    """Return what a step took of the host, in microseconds, and which share of `wall_s` the GPU had none.

    Nothing on a CPU, where the host is the device.
    """
    num_steps = after.engine.num_steps - before.engine.num_steps
    if num_steps <= 0 or not after.step_times.HasField("device_busy"):
        return {}
    first, last = before.step_times, after.step_times
    host_ns = last.host.ToNanoseconds() - first.host.ToNanoseconds()
    wait_ns = last.wait.ToNanoseconds() - first.wait.ToNanoseconds()
    busy_ns = last.device_busy.ToNanoseconds() - first.device_busy.ToNanoseconds()
    return {
        "host_us": round(host_ns / 1e3 / num_steps, 1),
        "wait_us": round(wait_ns / 1e3 / num_steps, 1),
        "idle_between": round(max(0.0, 1 - busy_ns / 1e9 / wall_s), 4),
    }
