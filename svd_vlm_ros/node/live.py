# SPDX-License-Identifier: Apache-2.0
"""What a change of parameters does at once, while the node runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node import parameters
from svd_vlm_ros.node.jobs import Job, Priority

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.node.configuring import Serving
    from svd_vlm_ros.node.perception_node import PerceptionNode
    from svd_vlm_ros.node.settings import Settings

FEWEST_TOKENS = 16  # to which the node lowers the budget by itself
_CONTROLS = 100  # changes of the engine that may wait


class LiveChanges:
    """Follows the parameters of a configured node; runs on the executor's thread."""

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._taking_back = False
        self._known_good: tuple[Serving, Settings] | None = None  # what the engine obeys

    def check(self, changed: Sequence[Parameter]) -> None:
        """Raise `UserError` where a selector is meant that there is not; needs a loaded engine."""
        node = self._node
        if node.engine is None:
            return  # loading says so
        from svd_vlm_ros.selection import selector_names

        names = selector_names("all")
        cameras = {*node.cameras, ""}
        for parameter in changed:
            if parameter.name == "selector" and parameter.value not in names:
                raise UserError(
                    f"There is no selector '{parameter.value}': take one of {', '.join(names)}."
                )
            part = parameter.name.split(".")
            if part[0] == "fact" and part[-1] == "camera" and parameter.value not in cameras:
                raise UserError(
                    f"Parameter {parameter.name} is '{parameter.value[:60]}': choose one of "
                    f"{', '.join(sorted(node.cameras))}, or leave it empty for the first."
                )

    def obey(self, changed: Sequence[Parameter]) -> None:
        """Do what new values ask for beyond being read by the next request."""
        node, names = self._node, {parameter.name for parameter in changed}
        if node.serving is not None and "description_period" in names:
            node.descriptions.start(node.settings.description_period)
        if node.inference is not None:
            node.inference.batch_size = node.settings.batch_size
        if any(name == "facts" or name.startswith("fact.") for name in names):
            node.descriptions.facts_changed()
            if silent := parameters.silent_facts(node):
                node.get_logger().warning(
                    f"Fact '{silent[0]}' is not asked: set the parameter fact.{silent[0]}.question."
                )
        if parameters.changes_selection(changed) and not self._taking_back:
            self._use_selector()

    def catch_up(self, loaded: Settings) -> None:
        """Obey what was set while the model was being loaded with these settings."""
        settings = self._node.settings
        if _selection(settings) != _selection(loaded):
            self._use_selector()

    def lower_budget(self, model: str) -> None:
        """Halve the number of visual tokens after the device was out of memory again and again."""
        node, settings = self._node, self._node.settings
        total = node.engine.visual_tokens_total if node.engine else settings.visual_tokens
        now = min(settings.token_cap if settings.energy else settings.visual_tokens, total)
        lower = max(now // 2, FEWEST_TOKENS)
        trouble = f"{model} ran out of memory several times in a row"
        if lower >= now:
            node.fault(
                f"{trouble}, already with {now} visual tokens: load it in a smaller precision, or "
                "free memory of the device."
            )
            return
        changes = [Parameter("visual_tokens", value=lower)]
        if settings.energy:
            changes.append(Parameter("energy", value=0.0))
        node.set_parameters(changes)
        node.fault(
            f"{trouble}: visual_tokens is lowered from {now} to {lower}; set it again when there "
            "is more memory."
        )

    def _use_selector(self) -> None:
        """Let the engine follow on its own thread; where it cannot, take the parameters back."""
        node = self._node
        configured, settings = node.configured, node.settings
        if configured is None or node.engine is None:
            return  # loading takes the new values
        if self._known_good is None or self._known_good[0] is not configured:
            self._known_good = (configured, configured.settings)

        def work(engine: SceneEngine, jobs: Sequence[Job[str]]) -> list[str]:
            name, options = settings.selection
            engine.use_selector(name, token_cap=settings.token_cap, **options)
            configured.answerer.scenes.clear()
            configured.looker.forget()
            return [""]

        def ended(why: str) -> None:
            if not why:
                self._known_good = (configured, settings)
            else:
                node.in_executor(functools.partial(self._take_back, settings), why)

        job: Job[str] = Job(
            work,
            priority=Priority.CONTROL,
            failed=lambda error: f"Selector {settings.selector} cannot be used: {error}",
            on_end=ended,
        )
        configured.inference.submit(job, _CONTROLS)

    def _take_back(self, failed: Settings, why: str) -> None:
        """Set the parameters to the values that the engine still obeys, where they are the same."""
        node = self._node
        node.fault(f"The former selector stays in use. {why}")
        if self._known_good is None or self._known_good[0] is not node.configured:
            return
        if _selection(node.settings) != _selection(failed):
            return  # another one was set meanwhile
        good = self._known_good[1]
        self._taking_back = True  # the engine obeys these already
        node.set_parameters(
            [
                Parameter("selector", value=good.selector),
                Parameter("selector_options", value=list(good.selector_options) or [""]),
                Parameter("token_cap", value=good.token_cap),
            ]
        )
        self._taking_back = False


def _selection(settings: Settings) -> tuple[object, ...]:
    return settings.selector, settings.selector_options, settings.token_cap
