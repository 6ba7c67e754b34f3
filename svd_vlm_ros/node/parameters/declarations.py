# SPDX-License-Identifier: Apache-2.0
"""The one list of the node's parameters: defaults, meaning, ranges, and when each may change.

config/perception.yaml and docs/node.md show the same names and defaults; a test compares them.
"""

from __future__ import annotations

from svd_vlm_ros.defaults import SELECTOR, VISUAL_TOKENS
from svd_vlm_ros.facts import YES_NO
from svd_vlm_ros.images.messages import MAX_PIXELS
from svd_vlm_ros.node.parameters.settings import AUTO, MAX_NEW_TOKENS, MAX_SECONDS
from svd_vlm_ros.ros.parameters import Spec, When

DEFAULT_CAMERA = "camera"

_AT_CONFIGURE = When.CONFIGURE
PARAMETERS: tuple[Spec, ...] = (
    # The model
    Spec(
        "model",
        "llava-hf/llava-1.5-7b-hf",
        "Model: scout (embedded), a hub id or folder of one of the families in docs/models.md, or "
        "random:tiny. A hub model must have been fetched by svd-vlm download. Or a folder that "
        "svd-vlm export onnx has written.",
        _AT_CONFIGURE,
    ),
    Spec(
        "runtime",
        "auto",
        "What computes: torch, or onnx, which runs exported folders and needs no torch; auto: onnx "
        "if the model is such a folder, else torch.",
        _AT_CONFIGURE,
        choices=("auto", "torch", "onnx"),
    ),
    Spec(
        "precision",
        "auto",
        "Precision of the weights; auto: the fastest that this machine has for the model and that "
        "fits into its memory, or that of the export.",
        _AT_CONFIGURE,
        choices=("auto", "fp32", "bf16", "fp16", "int8", "int4"),
    ),
    Spec(
        "device",
        "auto",
        "Device of the model: auto, cpu, cuda or cuda:<index>; of an export also tensorrt.",
        _AT_CONFIGURE,
    ),
    Spec(
        "cpu_threads",
        0,
        "Threads that the model may use on the CPU; 0: the runtime's own choice.",
        _AT_CONFIGURE,
        low=0,
        high=1024,
    ),
    Spec("system_prompt", "", "Text in front of every conversation; empty: none."),
    Spec(
        "aspect",
        "pad",
        "pad shows the whole image; crop its middle square, if the model looks at squares.",
        _AT_CONFIGURE,
        choices=("pad", "crop"),
    ),
    Spec(
        "min_pixels",
        0,
        "Pixels to which a smaller image is enlarged, if the model takes images of any size; 0: as "
        "its checkpoint says.",
        _AT_CONFIGURE,
        low=0,
        high=1_000_000_000,
    ),
    Spec(
        "max_pixels",
        0,
        "Pixels to which a larger image is reduced, if the model takes images of any size; 0: as "
        "its checkpoint says. Fewer are faster.",
        _AT_CONFIGURE,
        low=0,
        high=1_000_000_000,
    ),
    Spec(
        "position_policy",
        "auto",
        "Position ids of the kept visual tokens: contiguous (they close ranks), original (as in "
        "the whole image), auto (as the family needs it).",
        _AT_CONFIGURE,
        choices=("auto", "contiguous", "original"),
    ),
    Spec(
        "allow_random_model",
        False,
        "Let a model with random weights answer; else its requests get ERROR.",
    ),
    Spec(
        "load_timeout",
        600.0,
        "Seconds that configure waits for the model before it fails.",
        _AT_CONFIGURE,
        low=1.0,
        high=MAX_SECONDS,
    ),
    # What the model sees of an image
    Spec(
        "selector",
        SELECTOR,
        "Method that chooses the visual tokens, one of those of docs/selectors.md.",
    ),
    Spec(
        "selector_options",
        [""],
        "Options of the selector, each as name=value.",
    ),
    Spec(
        "visual_tokens",
        VISUAL_TOKENS,
        "Visual tokens to keep of each image, if energy is 0.",
        low=1,
        high=65535,
    ),
    Spec(
        "energy",
        0.0,
        "0: keep visual_tokens. Above 0: keep as few tokens as hold this share of the image's "
        "energy, at most token_cap.",
        low=0.0,
        high=1.0,
    ),
    Spec(
        "token_cap",
        VISUAL_TOKENS,
        "Most visual tokens that are kept if energy is above 0.",
        low=1,
        high=65535,
    ),
    # Cameras
    Spec(
        "cameras",
        [DEFAULT_CAMERA],
        "Names of the cameras; a request that names none means the first.",
        _AT_CONFIGURE,
    ),
    Spec(
        "max_image_age",
        10.0,
        "Seconds; a question gets STALE_IMAGE if the newest image is older by its stamp. 0: "
        "no limit.",
        low=0.0,
        high=MAX_SECONDS,
    ),
    Spec(
        "max_image_pixels",
        MAX_PIXELS,
        "Largest width * height; a larger image is refused before it is decoded.",
        low=1,
        high=1_000_000_000,
    ),
    Spec(
        "allow_damaged_images",
        False,
        "Answer from damaged JPEGs as well, whose missing parts the decoder invents; else such an "
        "image gets NO_IMAGE.",
    ),
    # Questions
    Spec(
        "max_new_tokens",
        64,
        "Longest answer in tokens, if the request sets none.",
        low=1,
        high=MAX_NEW_TOKENS,
    ),
    Spec(
        "request_timeout",
        30.0,
        "Seconds from the arrival of a request to its reply at the latest, if the request sets "
        "none.",
        low=0.05,
        high=MAX_SECONDS,
    ),
    Spec(
        "max_question_length",
        2000,
        "Longest question, and longest choices together, in characters.",
        low=1,
        high=100_000,
    ),
    Spec(
        "queue_size",
        8,
        "Questions that may wait for the model; further ones get BUSY.",
        low=1,
        high=1000,
    ),
    Spec(
        "batch_size",
        4,
        "Most questions about one image that are answered together; each takes memory.",
        low=1,
        high=64,
    ),
    # Descriptions and standing questions
    Spec(
        "description_period",
        2.0,
        "Seconds between two descriptions of a camera's image; 0: none.",
        low=0.0,
        high=MAX_SECONDS,
    ),
    Spec(
        "description_prompt", "", "What a description is asked with; empty: the model's own prompt."
    ),
    Spec(
        "change_threshold",
        0.02,
        "An image that differs less than this from the one described last is not described anew, "
        "but the description repeated. 0: every image is described.",
        low=0.0,
        high=1.0,
    ),
    Spec(
        "change_refresh",
        60.0,
        "Seconds after which an image is described anew even if nothing has changed; 0: never.",
        low=0.0,
        high=MAX_SECONDS,
    ),
    Spec(
        "facts",
        [""],
        "Names of the standing questions that are asked about each image that is described.",
    ),
    Spec(
        "fact_frames",
        2,
        "Images in a row that must say so before the value of a fact changes.",
        low=1,
        high=1000,
    ),
    # The node
    Spec(
        "autostart",
        True,
        "Configure and activate the node at its start; false: wait for a lifecycle manager.",
        When.START,
    ),
)

# Of each camera; the full name is camera.<name of the camera>.<name here>.
CAMERA_PARAMETERS: tuple[Spec, ...] = (
    Spec(
        "topic",
        "",
        "Topic of the camera's images, relative to the node's namespace.",
        _AT_CONFIGURE,
    ),
    Spec(
        "compressed",
        False,
        "Whether the topic carries CompressedImage (JPEG, PNG) and not Image.",
        _AT_CONFIGURE,
    ),
    Spec(
        "reliability",
        AUTO,
        "Whether lost parts of an image are sent again: auto (if all publishers of the topic "
        "offer it), reliable or best_effort.",
        _AT_CONFIGURE,
        choices=(AUTO, "reliable", "best_effort"),
    ),
)

# Of each standing question; the full name is fact.<name of the fact>.<name here>.
FACT_PARAMETERS: tuple[Spec, ...] = (
    Spec("question", "", "What is asked; the fact is left out as long as this is empty."),
    Spec("choices", list(YES_NO), "The possible answers, two or more."),
    Spec("camera", "", "Name of the camera that is asked about; empty: the first one."),
)
