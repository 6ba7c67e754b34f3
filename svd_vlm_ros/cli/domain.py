# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of one's own: a domain that nobody on this machine uses, closed to other machines."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from svd_vlm_ros.errors import UserError

DOMAINS = range(1, 102)  # their ports lie below those that Linux hands out to programs
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250  # of DDS: discovery by multicast
# ROS's own tests (domain_coordinator) reserve a domain by binding this port plus its number.
RESERVATIONS = 32768
PARTICIPANTS = range(10, 16)  # offsets of the ports of a domain's first three participants


@contextmanager
def reserved_domain(start: int) -> Iterator[int]:
    """A free ROS domain, looked for from `start` on and reserved while the `with` lasts.

    Raises `UserError` if all are taken.
    """
    for offset in range(len(DOMAINS)):
        domain = DOMAINS[(start + offset) % len(DOMAINS)]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reservation:
            try:
                reservation.bind(("", RESERVATIONS + domain))
            except OSError:
                continue  # of somebody whose nodes may not run yet
            if is_free(domain):
                yield domain
                return
    raise UserError("Every ROS domain of this machine is in use: end some ROS nodes.")


def is_free(domain: int) -> bool:
    """Whether no DDS participant of this machine is in a domain: none of its ports is taken."""
    first = FIRST_PORT + PORTS_PER_DOMAIN * domain
    for port in (first, *(first + offset for offset in PARTICIPANTS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True


def private_graph(domain: int) -> dict[str, str | None]:
    """The changes of the environment for a graph on this machine only; None removes a variable.

    They hold whatever the robot around it is set to.
    """
    if os.environ.get("ROS_DISTRO") == "humble":  # knows only the older switch
        local: dict[str, str | None] = {"ROS_LOCALHOST_ONLY": "1"}
    else:
        local = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": None}
    return {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_STATIC_PEERS": None,
        "ROS_DISCOVERY_SERVER": None,
        "ROS_NAMESPACE": None,
        **local,
    }


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """This process's environment with changes while the `with` lasts; `None` removes a variable."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
