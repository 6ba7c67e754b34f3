# SPDX-License-Identifier: Apache-2.0
"""What `svd-vlm doctor` tries in processes of their own: each of these may crash or hang.

`python -m svd_vlm_ros.cli.probes NAME [ARGUMENTS]` prints one line of JSON: what was found, or
{"error": ...}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

Found = dict[str, Any]


def numpy_opencv() -> Found:
    """NumPy and OpenCV together: an image to JPEG and back."""
    import cv2
    import numpy as np

    image = np.full((16, 16, 3), 128, np.uint8)
    done, data = cv2.imencode(".jpg", image)
    back = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return {
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "jpeg": bool(done) and back is not None and int(abs(back.astype(int) - 128).max()) <= 2,
    }


def ros() -> Found:
    """rclpy and its middleware."""
    import rclpy

    return {"rmw": rclpy.get_rmw_implementation_identifier()}


def interfaces() -> Found:
    """The compiled interfaces of this package, loaded as rclpy loads them."""
    from rclpy.type_support import check_for_type_support

    from svd_vlm_ros import action, msg, srv

    messages = (msg.SceneDescription, msg.SceneFact, msg.FactChanged, msg.InferenceStats)
    interfaces = (srv.AskScene, action.StreamAnswer, *messages)
    for interface in (srv.AskScene, *messages):
        check_for_type_support(interface)
    check_for_type_support(action.StreamAnswer.Goal)
    return {"interfaces": [interface.__name__ for interface in interfaces]}


def cv_bridge() -> Found:
    """cv_bridge with a real conversion: compiled against another NumPy it aborts or raises."""
    import numpy as np
    from cv_bridge import CvBridge

    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    bridge = CvBridge()
    back = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, "rgb8"), "rgb8")
    return {"numpy": np.__version__, "same": bool((back == image).all())}


def torch() -> Found:
    """torch and the devices that it can compute on."""
    import torch as library

    devices = []
    if library.cuda.is_available():
        for index in range(library.cuda.device_count()):
            properties = library.cuda.get_device_properties(index)
            devices.append(
                {
                    "name": properties.name,
                    "capability": f"{properties.major}.{properties.minor}",
                    "memory": properties.total_memory,
                }
            )
        product = library.ones(8, 8, device="cuda") @ library.ones(8, 8, device="cuda")
        if float(product.sum()) != 512.0:
            raise RuntimeError("a product on the GPU is wrong")
    return {
        "torch": library.__version__,
        "cuda": library.version.cuda,
        "devices": devices,
        "threads": library.get_num_threads(),
        "packages": {name: _version(name) for name in ("transformers", "bitsandbytes")},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def product(kind: str, device: str) -> Found:
    """One real quantized product through bitsandbytes, for 1 row (decode) and 64 rows (prefill).

    `kind` is int8 or int4, quantized as the engine does it. The error is relative to the product
    with the float32 weights: |y - y'| / |y| over all elements.
    """
    import torch as library

    from svd_vlm_ros.models.weights.precision import compute_dtype, quantize_linears

    library.manual_seed(0)
    weights = library.randn(256, 512)
    inputs = library.randn(64, 512)
    dtype = compute_dtype(kind, library.device(device))
    layer = library.nn.Sequential(library.nn.Linear(512, 256, bias=False))
    layer[0].weight.data = weights.clone()
    layer = layer.to(device, dtype)
    quantize_linears(layer, kind, dtype)
    layer.eval()
    begun = time.perf_counter()
    errors = []
    with library.inference_mode():
        for rows in (1, 64):
            got = layer(inputs[:rows].to(device, dtype)).float().cpu()
            wanted = inputs[:rows] @ weights.T
            errors.append(float((got - wanted).norm() / wanted.norm()))
    return {"error_of_product": max(errors), "seconds": time.perf_counter() - begun}


def precision(model: str) -> Found:
    """What `precision: auto` takes for a model on this CPU, with the candidates timed anew."""
    import torch as library

    from svd_vlm_ros.cpu import available_memory, cpu_class, cpu_name
    from svd_vlm_ros.models.weights.precision import compute_dtype
    from svd_vlm_ros.models.weights.precision_choice import AUTO, choose_precision, cpu_bytes
    from svd_vlm_ros.planning.known import find_sizes

    sizes, place = find_sizes(model), library.device("cpu")
    choice = choose_precision(AUTO, sizes, place, fresh=True)
    return {
        "cpu": cpu_name(),
        "class": cpu_class(),
        "threads": library.get_num_threads(),
        "model": sizes.name,
        "free_bytes": available_memory(),
        "precision": choice.precision,
        "advice": choice.advice,
        "candidates": [
            {
                "precision": each,
                "activations": str(compute_dtype(each, place)).removeprefix("torch."),
                "bytes": cpu_bytes(sizes, each),
                "fits": each in choice.fitting,
                "first_token": speed.first_token(sizes),
                "token": speed.each_token(sizes),
                "answer": speed.answer(sizes),
            }
            for each, speed in choice.speeds.items()
        ],
    }


def cameras(seconds: str) -> Found:
    """The image topics on the graph: publishers' QoS, and the images that come in `seconds`."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CompressedImage, Image

    kinds = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
    rclpy.init()
    node = rclpy.create_node(f"svd_vlm_doctor_{os.getpid()}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    arrived: dict[str, list[float]] = {}
    first: dict[str, bytes] = {}
    types: dict[str, str] = {}

    def receive(topic: str) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            arrived[topic].append(time.monotonic())
            first.setdefault(topic, data)

        return take

    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for topic, published in node.get_topic_names_and_types():
            kind = next((name for name in published if name in kinds), None)
            if kind and topic not in types and node.count_publishers(topic):
                types[topic], arrived[topic] = kind, []
                # raw: an image is counted, not decoded; best effort: matches every publisher
                node.create_subscription(
                    kinds[kind], topic, receive(topic), qos_profile_sensor_data, raw=True
                )
        executor.spin_once(timeout_sec=0.05)

    found = []
    for topic, kind in sorted(types.items()):
        image = deserialize_message(first[topic], kinds[kind]) if topic in first else None
        times = arrived[topic]
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        found.append(
            {
                "topic": topic,
                "type": kind.rsplit("/", 1)[-1],
                "publishers": [
                    {
                        "node": info.node_name,
                        "reliability": info.qos_profile.reliability.name.lower(),
                        "durability": info.qos_profile.durability.name.lower(),
                    }
                    for info in node.get_publishers_info_by_topic(topic)
                ],
                "images": len(times),
                "rate": (len(times) - 1) / span if span > 0 else None,
                "format": _format(image),
            }
        )
    return {"cameras": found}


def _format(image: Any) -> str | None:
    """`640x480 rgb8`, or the format of a compressed image."""
    if image is None:
        return None
    if hasattr(image, "encoding"):
        return f"{image.width}x{image.height} {image.encoding}"
    return str(image.format)


PROBES: dict[str, Callable[..., Found]] = {
    "numpy_opencv": numpy_opencv,
    "ros": ros,
    "interfaces": interfaces,
    "cv_bridge": cv_bridge,
    "torch": torch,
    "product": product,
    "precision": precision,
    "cameras": cameras,
}


def main() -> None:
    """Run one probe and print what it found as the last line."""
    name, *arguments = sys.argv[1:]
    try:
        found = PROBES[name](*arguments)
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print("\n" + json.dumps(found), flush=True)
    os._exit(0)  # what was found counts, not whether a library can tidy up after itself


if __name__ == "__main__":
    main()
