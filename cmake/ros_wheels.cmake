# SPDX-License-Identifier: Apache-2.0
# Mends the one fault of the ROS wheels from PyPI; setup.py hands this file to CMake. A ROS installation needs
# nothing of the kind, and there this does nothing.
#
# The wheels' libraries <package>__rosidl_generator_py export the Python and NumPy include folders of the
# machine that built them (/opt/python/...), and CMake refuses to generate for an imported target that names a
# folder that does not exist. Nothing that links them here needs those folders: the code that includes
# Python.h asks FindPython3 for them. So folders that do not exist are dropped from those targets, in this
# build alone; no installed file is changed. Our own library of that kind exports none of them in the first
# place: in pip's build environment its NumPy folder is a temporary one, and the fault would be ours.
function(drop_missing_include_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  list(FILTER targets INCLUDE REGEX "__rosidl_generator_py$")
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set(existing "")
    foreach(folder IN LISTS folders)
      if(EXISTS "${folder}")
        list(APPEND existing "${folder}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
  set_target_properties(${PROJECT_NAME}__rosidl_generator_py PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "")
endfunction()

# Included by project(): the targets are imported later, so do it when CMakeLists.txt has been read.
cmake_language(DEFER CALL drop_missing_include_folders)
