# SPDX-License-Identifier: Apache-2.0
"""The service `ask_scene`: one request, one response, by the handler that the action shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svd_vlm_ros.node.inference.requests import Request
from svd_vlm_ros.node.interfaces.handler import MANY_REQUESTS
from svd_vlm_ros.node.interfaces.messages import fill_response
from svd_vlm_ros.srv import AskScene

if TYPE_CHECKING:
    from rclpy.node import Node

    from svd_vlm_ros.node.interfaces.handler import RequestHandler


class AskService:
    """Serves `ask_scene` in every lifecycle state."""

    def __init__(self, node: Node, handler: RequestHandler) -> None:
        self._handler = handler
        self.service = node.create_service(
            AskScene,
            "ask_scene",
            self._on_ask,
            qos_profile=MANY_REQUESTS,
            callback_group=handler.group,
        )

    async def _on_ask(self, request: Any, response: Any) -> Any:
        return fill_response(response, await self._handler.handle(request, Request()))
