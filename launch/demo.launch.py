# SPDX-License-Identifier: Apache-2.0
"""The demo for people with ROS: a simulated camera and the node with the embedded model.

ros2 launch svd_vlm_ros demo.launch.py
ros2 service call /ask_scene svd_vlm_ros/srv/AskScene "{question: 'is the path clear?'}"
ros2 topic echo /scene_description
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

NUMBERS = {"rate": (float, "a number such as 0.5"), "seed": (int, "a whole number such as 64")}


def check_numbers(context):
    """Refuse a number that is none by its argument's name, which launch does not tell."""
    for argument, (kind, wanted) in NUMBERS.items():
        text = context.launch_configurations[argument]
        try:
            kind(text)
        except ValueError:
            raise RuntimeError(f"{argument}:={text} cannot be: give {wanted}.") from None


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(
            "precision",
            default_value="auto",
            description="precision of the weights; auto: the fastest that fits into memory",
            choices=["auto", "fp32", "bf16", "fp16", "int8", "int4"],
        ),
        DeclareLaunchArgument(
            "visual_tokens",
            default_value="192",
            description="visual tokens to keep of each image",
        ),
        DeclareLaunchArgument(
            "rate", default_value="5.0", description="images a second of the simulated camera"
        ),
        DeclareLaunchArgument(
            "seed", default_value="0", description="which drive the simulated camera takes"
        ),
        DeclareLaunchArgument(
            "namespace", default_value="", description="namespace of both nodes, e.g. robot1"
        ),
    ]
    camera = Node(
        package="svd_vlm_ros",
        executable="scout_camera",
        name="scout_camera",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            {
                argument: ParameterValue(LaunchConfiguration(argument), value_type=kind)
                for argument, (kind, _) in NUMBERS.items()
            }
        ],
    )
    perception = IncludeLaunchDescription(
        PathJoinSubstitution([FindPackageShare("svd_vlm_ros"), "launch", "perception.launch.py"]),
        launch_arguments={
            "model": "scout",
            "precision": LaunchConfiguration("precision"),
            "visual_tokens": LaunchConfiguration("visual_tokens"),
            "namespace": LaunchConfiguration("namespace"),
        }.items(),
    )
    check = OpaqueFunction(function=check_numbers)
    return LaunchDescription([*arguments, check, camera, perception])
