#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ROS, the environment with torch and the package, then the command; exec, so that a stop reaches the node.
set -eo pipefail
source "$ROS_SETUP"
source /opt/vlm/bin/activate
source /ws/install/setup.bash
exec "$@"
