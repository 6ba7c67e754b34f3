# SPDX-License-Identifier: Apache-2.0
"""The node `perception` with its parameters.

    ros2 launch svd_vlm_ros perception.launch.py model:=scout image_topic:=/front/image_raw

What is given on the command line goes before the file `params_file`, and that before the defaults.
Hence the order below: each `SetParameter` looks whether its argument was given, so it stands before
the declarations, which would give it its default.
"""

from launch.actions import DeclareLaunchArgument, GroupAction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetParameter
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import Condition, LaunchDescription

PARAMS_FILE = PathJoinSubstitution([FindPackageShare("svd_vlm_ros"), "config", "perception.yaml"])


KINDS = {int: "a whole number such as 64", float: "a number such as 0.5"}


def was_given(context, given, argument, kind):
    """Whether an argument was given; a number that is none is refused by the argument's name."""
    text = given.perform(context)
    if text and kind in KINDS:
        try:
            kind(text)
        except ValueError:
            raise RuntimeError(f"{argument}:={text} cannot be: give {KINDS[kind]}.") from None
    return text != ""


def override(argument, kind=str, parameter=None):
    """Set a parameter of the node if its argument was given."""
    given = LaunchConfiguration(argument, default="")
    return SetParameter(
        parameter or argument,
        ParameterValue(given, value_type=kind),
        # Humble has no substitution that compares.
        condition=Condition(predicate=lambda context: was_given(context, given, argument, kind)),
    )


def generate_launch_description():
    overrides = [
        override("model"),
        override("runtime"),
        override("precision"),
        override("device"),
        override("selector"),
        override("visual_tokens", int),
        override("energy", float),
        override("token_cap", int),
        override("min_pixels", int),
        override("max_pixels", int),
        override("position_policy"),
        override("description_period", float),
        override("image_topic", parameter="camera.camera.topic"),
        override("compressed", bool, parameter="camera.camera.compressed"),
        override("reliability", parameter="camera.camera.reliability"),
        override("allow_random_model", bool),
        override("autostart", bool),
        override("use_sim_time", bool),
    ]
    arguments = [
        DeclareLaunchArgument(
            "model",
            default_value="llava-hf/llava-1.5-7b-hf",
            description="scout (embedded, needs no download), a hub id or folder of one of the "
            "families in docs/models.md, or random:tiny; a hub model must have been fetched by "
            "'svd-vlm download'; or a folder that 'svd-vlm export onnx' has written",
        ),
        DeclareLaunchArgument(
            "runtime",
            default_value="auto",
            description="what computes: torch, or onnx, which runs exported folders and needs no "
            "torch; auto: onnx if the model is such a folder, else torch",
            choices=["auto", "torch", "onnx"],
        ),
        DeclareLaunchArgument(
            "precision",
            default_value="auto",
            description="precision of the weights; auto: the fastest that fits into memory",
            choices=["auto", "fp32", "bf16", "fp16", "int8", "int4"],
        ),
        DeclareLaunchArgument(
            "device", default_value="auto", description="auto, cpu, cuda or cuda:<index>"
        ),
        DeclareLaunchArgument(
            "selector",
            default_value="svd-cover",
            description="method that chooses the visual tokens, one of those of docs/selectors.md",
        ),
        DeclareLaunchArgument(
            "visual_tokens",
            default_value="192",
            description="visual tokens to keep of each image, if energy is 0",
        ),
        DeclareLaunchArgument(
            "energy",
            default_value="0.0",
            description="above 0: keep as few tokens as hold this share of the image's energy",
        ),
        DeclareLaunchArgument(
            "token_cap",
            default_value="192",
            description="most visual tokens that are kept if energy is above 0",
        ),
        DeclareLaunchArgument(
            "min_pixels",
            default_value="0",
            description="pixels to which a smaller image is enlarged, if the model takes images of "
            "any size; 0: as its checkpoint says",
        ),
        DeclareLaunchArgument(
            "max_pixels",
            default_value="0",
            description="pixels to which a larger image is reduced, if the model takes images of "
            "any size; 0: as its checkpoint says",
        ),
        DeclareLaunchArgument(
            "position_policy",
            default_value="auto",
            description="position ids of the kept visual tokens",
            choices=["auto", "contiguous", "original"],
        ),
        DeclareLaunchArgument(
            "description_period",
            default_value="2.0",
            description="seconds between two messages on scene_description; 0: none",
        ),
        DeclareLaunchArgument(
            "image_topic",
            default_value="image",
            description="topic of the images, if the parameter cameras has its default",
        ),
        DeclareLaunchArgument(
            "compressed",
            default_value="false",
            description="whether image_topic carries CompressedImage and not Image",
            choices=["true", "false"],
        ),
        DeclareLaunchArgument(
            "reliability",
            default_value="auto",
            description="whether lost parts of an image are sent again; auto: if all "
            "publishers of image_topic offer it",
            choices=["auto", "reliable", "best_effort"],
        ),
        DeclareLaunchArgument(
            "allow_random_model",
            default_value="false",
            description="let a random:* model answer, for tests of speed",
            choices=["true", "false"],
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            description="configure and activate the node; false: wait for a lifecycle manager",
            choices=["true", "false"],
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            description="take the time from /clock, as for a bag replayed by ros2 bag play --clock",
            choices=["true", "false"],
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PARAMS_FILE,
            description="file with the node's parameters; arguments given here go before it",
        ),
        DeclareLaunchArgument(
            "namespace", default_value="", description="namespace of the node, e.g. robot1"
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            description="debug, info, warn, error or fatal; perception:=debug for the lines of "
            "this node (robot1.perception:=debug in a namespace) without those of ROS itself",
        ),
    ]
    node = Node(
        package="svd_vlm_ros",
        executable="perception_node",
        name="perception",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        # Not under `parameters`, which would go after, and so before in rank, what SetParameter
        # sets.
        ros_arguments=[
            "--params-file",
            LaunchConfiguration("params_file"),
            "--log-level",
            LaunchConfiguration("log_level"),
        ],
    )
    # A group: SetParameter must not reach the nodes of a launch file that includes this one.
    return LaunchDescription([GroupAction([*overrides, *arguments, node])])
