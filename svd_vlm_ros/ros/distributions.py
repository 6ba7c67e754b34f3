# SPDX-License-Identifier: Apache-2.0
"""What the rclpy of one ROS 2 distribution has and that of another lacks; Humble is the oldest.

The rest of the node uses what all of them have, and asks here for what they have not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

__all__ = ["HookedNode", "SubscriptionEventCallbacks", "UnsupportedEventTypeError"]

Adapt = Callable[[list[Parameter]], list[Parameter]]
Check = Callable[[list[Parameter]], SetParametersResult]
Changed = Callable[[list[Parameter]], None]
Refuse = Callable[[list[str]], str]


class HookedNode(LifecycleNode):
    """A node that is asked before its parameters are set, and hears of it afterwards.

    From Iron on rclpy has callbacks for all of it. Humble's has one for checking only; there the
    two methods through which every change goes, from within and by a service, call the others.
    """

    _refuse: Refuse | None = None
    _adapt: Adapt | None = None
    _changed: Changed | None = None

    def add_parameter_hooks(
        self, adapt: Adapt, check: Check, changed: Changed, refuse: Refuse
    ) -> None:
        """Let parameters be refused by their names, adapted, then checked; `changed` hears of it.

        `refuse` says why none of these names can be set, "": they can; rclpy's own sentence names
        none that is amiss. What is declared is checked as well; whether `changed` hears of that
        depends on the distribution.
        """
        self._refuse = refuse
        self.add_on_set_parameters_callback(check)
        if hasattr(self, "add_post_set_parameters_callback"):
            self.add_pre_set_parameters_callback(adapt)
            self.add_post_set_parameters_callback(changed)
        else:
            self._adapt, self._changed = adapt, changed

    def set_parameters(self, parameter_list: Sequence[Parameter]) -> list[Any]:
        """Set each parameter by itself; see rclpy."""
        if self._adapt is None:
            return list(super().set_parameters(parameter_list))
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> Any:
        """Set all of the parameters or none; see rclpy."""
        why = self._refuse([each.name for each in parameter_list]) if self._refuse else ""
        if why:
            return SetParametersResult(successful=False, reason=why)
        if self._adapt is None or self._changed is None:
            return super().set_parameters_atomically(parameter_list)
        adapted = self._adapt(list(parameter_list))
        result = super().set_parameters_atomically(adapted)
        if result.successful:
            self._changed(adapted)
        return result
