# SPDX-License-Identifier: Apache-2.0
"""Ask one question through the service `ask_scene`, and print the answer.

    python3 examples/ask_client.py "what is the ground?" --choices grass sand snow

Exit status 0 if the question was answered, else 1 with the node's own sentence on stderr.
"""

from __future__ import annotations

import argparse
import sys

import rclpy
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from svd_vlm_ros.srv import AskScene

TRIES = 3
SLACK = 1.0  # s beyond the request's timeout, until which the node has replied
TO_APPEAR = 10.0  # s in which the service must be there


def ask(node: Node, request: AskScene.Request) -> AskScene.Response:
    """The node's reply. Raises `TimeoutError`.

    The node replies within `request.timeout`, whatever happens. If nothing comes, the reply got
    lost while the two programs were still discovering each other: the question is sent again.
    """
    client = node.create_client(AskScene, "ask_scene")
    if not client.wait_for_service(timeout_sec=TO_APPEAR):
        raise TimeoutError(f"Nobody offers {client.srv_name}: start the node, or remap the name.")
    for _ in range(TRIES):
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=request.timeout + SLACK)
        if future.done():
            return future.result()
        client.remove_pending_request(future)
    raise TimeoutError(f"{client.srv_name} did not reply to {TRIES} requests: see the node's log.")


def main() -> int:
    """Read the command line, ask, and print."""
    parser = argparse.ArgumentParser(description="Ask the node perception one question.")
    parser.add_argument("question")
    parser.add_argument("--choices", nargs="+", default=[], help="take the likeliest of these")
    parser.add_argument("--camera", default="", help="the node's first camera if it is left out")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for the answer")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])

    rclpy.init()
    node = rclpy.create_node("ask_client")
    request = AskScene.Request(
        question=given.question, choices=given.choices, camera=given.camera, timeout=given.timeout
    )
    try:
        reply = ask(node, request)
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if reply.status != AskScene.Response.OK:
        print(reply.message, file=sys.stderr)
        return 1
    print(reply.answer)
    for choice, probability in zip(given.choices, reply.probabilities, strict=False):
        print(f"  {choice}: {probability:.2f}")
    stamp = reply.header.stamp
    print(f"image {stamp.sec}.{stamp.nanosec:09d} of camera {reply.camera}", end=", ")
    print(f"{reply.stats.visual_tokens_kept} of {reply.stats.visual_tokens_total} tokens kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
