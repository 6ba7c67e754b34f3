# SPDX-License-Identifier: Apache-2.0
"""Ask through the action `stream_answer`: the words appear as they are written. Ctrl-C cancels.

    python3 examples/stream_client.py "describe the scene" --most-words 10

All calls are made on the thread that spins the node, as docs/node.md asks for. Ctrl-C sets an
event: an exception in the midst of spinning can leave rclpy's action client deaf for good.
"""

import argparse
import signal
import sys
import threading
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from svd_vlm_ros.action import StreamAnswer

STOPPED = threading.Event()  # by Ctrl-C
TRIES, SOON = 3, 5.0  # SOON in s: a goal is accepted at once, a cancel takes one token


def stream(node: Node, goal: StreamAnswer.Goal, most_words: int = 0) -> StreamAnswer.Result:
    """Print the answer while it is written, and return the result. Raises `TimeoutError`.

    Ctrl-C cancels the goal, and so does the word number `most_words` (0: none).
    """
    client = ActionClient(node, StreamAnswer, "stream_answer")
    if not client.wait_for_server(timeout_sec=10.0):
        raise TimeoutError("Nobody offers stream_answer: start the node, or remap the name.")
    words = 0

    def show(message: Any) -> None:
        nonlocal words
        words = len(message.feedback.text.split())
        print(message.feedback.piece, end="", flush=True)

    for _ in range(TRIES):
        sent = client.send_goal_async(goal, feedback_callback=show)
        rclpy.spin_until_future_complete(node, sent, timeout_sec=SOON)
        if sent.done():
            break
    else:
        raise TimeoutError(f"stream_answer took none of {TRIES} goals: see the node's log.")
    result = sent.result().get_result_async()
    while not (result.done() or STOPPED.is_set() or 0 < most_words <= words):
        rclpy.spin_once(node, timeout_sec=0.1)
    if not result.done():
        sent.result().cancel_goal_async()
        rclpy.spin_until_future_complete(node, result, timeout_sec=SOON)
    if not result.done():
        raise TimeoutError("The node did not end the goal: see its log.")
    return result.result().result


def main() -> int:
    """Exit status 0: answered, or canceled as wished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--most-words", type=int, default=0, help="cancel after so many; 0: never")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, lambda *_: STOPPED.set())
    try:
        goal = StreamAnswer.Goal(question=given.question)
        result = stream(rclpy.create_node("stream_client"), goal, given.most_words)
    except TimeoutError as error:
        sys.exit(str(error))
    print(f"\n{result.finish_reason}, {result.stats.answer_tokens} tokens. {result.message}")
    return int(result.status not in (result.OK, result.CANCELED))


if __name__ == "__main__":
    sys.exit(main())
