"""What listens: the declared ports and no others, on loopback, in every process of the house."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from processes import descendants

if TYPE_CHECKING:
    from processes import House

    import pagewire

pytestmark = pytest.mark.check("S07")


def sockets_of(house: House) -> list[Any]:
    pids = [house.process.pid, *descendants(house.process.pid)]
    return [socket for pid in pids for socket in psutil.Process(pid).net_connections("inet")]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_only_declared_ports_are_open_and_on_loopback_alone(house: House, client: pagewire.Client) -> None:
    stream = client.stream("One, two, three", ignore_eos=True, max_tokens=300)
    next(stream.texts())
    sockets = sockets_of(house)
    stream.close()
    listening = {socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN}
    assert all(_is_loopback(address.ip) for address in listening)
    declared = {port_of(address) for address in (house.grpc_target, house.admin_target, house.base_url)}
    assert {address.port for address in listening} >= declared
    (metrics,) = {address.port for address in listening} - declared
    assert httpx.get(f"http://127.0.0.1:{metrics}/metrics", timeout=30).status_code == 200
    assert not [socket for socket in sockets if socket.status == psutil.CONN_NONE], "a UDP port"


def test_nobody_talks_to_another_machine(house: House, client: pagewire.Client) -> None:
    stream = client.stream("One, two, three", ignore_eos=True, max_tokens=300)
    next(stream.texts())
    peers = {socket.raddr.ip for socket in sockets_of(house) if socket.raddr}
    stream.close()
    assert peers
    assert all(map(_is_loopback, peers))


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
