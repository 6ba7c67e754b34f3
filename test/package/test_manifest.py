# SPDX-License-Identifier: Apache-2.0
"""package.xml, CMakeLists.txt, pyproject.toml and the code agree on versions and dependencies."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

import svd_vlm_ros

ROOT = Path(__file__).resolve().parents[2]

# What an import is called if package.xml has another name for it.
ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "jinja2": "python3-jinja2",
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "rich": "python3-rich",
    "typer": "python3-typer",
    "yaml": "python3-yaml",
}
# rosdep has no key that installs versions of these that serve; docs/models.md says how to.
NOT_IN_ROSDEP = {
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
    "ml_dtypes",
    "onnx",
    "onnxruntime",
    "safetensors",
    "simplejpeg",
    "tokenizers",
    "torch",
    "transformers",
    "rosbags",
}
# Dependencies of the above that come with them wherever they are.
IMPLIED = {"click", "packaging", "tqdm"}
# What only an extra of pyproject.toml brings, and is imported only where it is asked for.
BY_EXTRA = {"ml_dtypes": "export", "onnx": "export", "onnxruntime": "onnx"}
OPTIONAL = {"tf2_ros"}  # what an example uses if it is there


@pytest.fixture(scope="module")
def manifest():
    catkin_package = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    package = catkin_package.parse_package(str(ROOT / "package.xml"))
    warnings: list[str] = []
    package.validate(warnings)
    assert warnings == []
    package.evaluate_conditions({})
    return package


def imports_of(folder: Path, anywhere: bool = True) -> dict[str, str]:
    """Packages that the Python files under `folder` import, each with one file that does.

    Not `anywhere`: at the top of a module only; a test may import what it has made itself.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree) if anywhere else tree.body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            found.update({name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names})
    return found


def _beside_tests(name: str) -> list[Path]:
    """Modules and folders of this name in the folders of the tests."""
    return [*(ROOT / "test").glob(f"*/{name}.py"), *(ROOT / "test").glob(f"*/{name}")]


def third_party(folder: str) -> dict[str, str]:
    ours = sys.stdlib_module_names | {"svd_vlm_ros"} | IMPLIED | OPTIONAL
    found = imports_of(ROOT / folder, anywhere=folder != "test")
    return {name: path for name, path in found.items() if name not in ours}


def test_versions_agree(manifest):
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stated = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert stated is not None
    assert stated[1] == manifest.version == svd_vlm_ros.__version__
    assert metadata.version("svd_vlm_ros") == svd_vlm_ros.__version__


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # catkin_pkg's use of docutils
def test_changelog_is_in_catkin_form_and_knows_this_version():
    pytest.importorskip("catkin_pkg", reason="needs catkin_pkg")
    from catkin_pkg.changelog import get_changelog_from_path
    from catkin_pkg.cli.tag_changelog import get_forthcoming_label

    path = ROOT / "CHANGELOG.rst"
    log = get_changelog_from_path(str(path), "svd_vlm_ros")
    released = [version for version, _, _ in log.foreach_version()]
    # Before a release the version is still forthcoming, and none that is released equals it.
    forthcoming = get_forthcoming_label(path.read_text(encoding="utf-8")) is not None
    assert forthcoming != (svd_vlm_ros.__version__ in released)


def test_it_is_an_interface_package_built_by_ament_cmake(manifest):
    assert [group.name for group in manifest.member_of_groups] == ["rosidl_interface_packages"]
    assert manifest.get_build_type() == "ament_cmake"
    assert manifest.licenses == ["Apache-2.0"]
    assert "Apache License" in (ROOT / manifest.licenses[0].file).read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["svd_vlm_ros", "launch", "examples"])
def test_package_xml_names_what_python_imports(manifest, folder):
    declared = {depend.name for depend in manifest.exec_depends}
    missing = {
        name: path
        for name, path in third_party(folder).items()
        if name not in NOT_IN_ROSDEP and ROSDEP_KEYS.get(name, name) not in declared
    }
    assert missing == {}


def test_package_xml_names_what_the_tests_import(manifest):
    declared = {d.name for d in manifest.exec_depends + manifest.test_depends}
    keys = {
        **ROSDEP_KEYS,
        "catkin_pkg": "python3-catkin-pkg-modules",
        "hypothesis": "python3-hypothesis",
        "pytest": "python3-pytest",
    }
    missing = {
        name: path
        for name, path in third_party("test").items()
        if name not in NOT_IN_ROSDEP
        and keys.get(name, name) not in declared
        and not _beside_tests(name)
    }
    assert missing == {}


def test_package_xml_names_what_cmake_finds(manifest):
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    found = set(re.findall(r"find_package\((\w+)", cmake))
    declared = {
        depend.name
        for depend in manifest.buildtool_depends + manifest.build_depends + manifest.test_depends
    }
    assert found - declared - {"OpenMP"} == set()  # comes with the compiler


def test_package_xml_names_nothing_that_is_unused(manifest):
    used = {
        ROSDEP_KEYS.get(name, name)
        for folder in ("svd_vlm_ros", "launch", "examples")
        for name in imports_of(ROOT / folder)
    }
    # The interfaces need these; Python code need not name them.
    used |= {"rosidl_default_runtime", "builtin_interfaces", "action_msgs"}
    unused = {depend.name for depend in manifest.exec_depends} - used
    assert unused == set()


def test_pip_requires_what_python_imports():
    lines = metadata.requires("svd_vlm_ros")
    if not lines:
        pytest.skip("installed by colcon, which leaves dependencies to rosdep")
    required = {
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("-", "_")
        for line in lines
        if "extra ==" not in line
    }
    names = {"PIL": "pillow", "cv2": "opencv_python_headless", "yaml": "pyyaml"}
    ros_only = {"cv_bridge", "launch", "launch_ros"}  # there are no wheels of them
    ros_by_pip = any(name.startswith("ros_") for name in required)
    missing = {}
    for name, path in third_party("svd_vlm_ros").items():
        is_ros = ROSDEP_KEYS.get(name, name) == name and name not in NOT_IN_ROSDEP
        if name in ros_only or (is_ros and not ros_by_pip):
            continue
        if name in BY_EXTRA:
            wanted = rf"{name}\W.*extra == .{BY_EXTRA[name]}\b"
            assert any(re.match(wanted, line) for line in lines), name
            continue
        if (f"ros_{name}" if is_ros else names.get(name, name)) not in required:
            missing[name] = path
    assert missing == {}


# What launch and launch_ros of ROS 2 Humble have, of the modules that launch files import from.
IN_HUMBLE = {
    "launch": "Action Condition LaunchContext LaunchDescription LaunchService Substitution",
    "launch.actions": "DeclareLaunchArgument EmitEvent ExecuteProcess GroupAction "
    "IncludeLaunchDescription LogInfo OpaqueFunction RegisterEventHandler SetEnvironmentVariable "
    "SetLaunchConfiguration Shutdown TimerAction",
    "launch.conditions": "IfCondition UnlessCondition",
    "launch.substitutions": "AndSubstitution Command EnvironmentVariable FindExecutable "
    "LaunchConfiguration NotSubstitution OrSubstitution PathJoinSubstitution PythonExpression "
    "TextSubstitution ThisLaunchFileDir",
    "launch_ros.actions": "LifecycleNode Node PushRosNamespace SetParameter SetRemap",
    "launch_ros.parameter_descriptions": "ParameterFile ParameterValue",
    "launch_ros.substitutions": "ExecutableInPackage FindPackagePrefix FindPackageShare",
}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.name)
def test_launch_files_import_what_humble_has(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            known = IN_HUMBLE.get(node.module or "", "").split()
            assert {alias.name for alias in node.names} <= set(known), node.module
