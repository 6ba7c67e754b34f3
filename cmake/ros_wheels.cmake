# SPDX-License-Identifier: Apache-2.0
# Mends the one fault of the ROS wheels from PyPI. A ROS installation does not have it, and there this changes
# nothing that anybody uses.
#
# The wheels' libraries <package>__rosidl_generator_py export the Python and NumPy include folders of the
# machine that built them (/opt/python/...), and CMake refuses to generate for an imported target that names a
# folder that does not exist. Nothing that links them needs those folders from them: code that includes Python.h
# asks FindPython3. So folders that do not exist are dropped from those targets, in this build alone; no
# installed file is changed. Our own library of that kind exports no such folder in the first place: in pip's
# build environment the NumPy one is temporary, and the fault would be ours.
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

drop_missing_include_folders()
