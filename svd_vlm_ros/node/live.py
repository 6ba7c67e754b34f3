# SPDX-License-Identifier: Apache-2.0
"""What a change of parameters does at once, while the node runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.jobs import Job, Priority
from svd_vlm_ros.node.settings import parse_options

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo, SceneEngine
    from svd_vlm_ros.node.configuring import Serving
    from svd_vlm_ros.node.perception_node import PerceptionNode
    from svd_vlm_ros.node.settings import Settings

FEWEST_TOKENS = 16  # to which the node lowers the budget by itself
_OF_SELECTION = frozenset({"selector", "selector_options", "visual_tokens", "energy", "token_cap"})
_CONTROLS = 100  # changes of the engine that may wait


@dataclass(frozen=True)
class Part:
    """A part of the engine that follows parameters, all of `names` together, by `apply`."""

    what: str
    names: tuple[str, ...]
    apply: Callable[[SceneEngine, Settings], None]

    def values(self, settings: Settings) -> tuple[Any, ...]:
        """What it depends on."""
        return tuple(getattr(settings, name) for name in self.names)

    def parameters(self, settings: Settings) -> list[Parameter]:
        """The parameters with these values."""
        values = [
            (list(value) or [""]) if isinstance(value, tuple) else value
            for value in self.values(settings)
        ]
        return [
            Parameter(name, value=value) for name, value in zip(self.names, values, strict=True)
        ]


def check_selection(engine: EngineInfo, values: Mapping[str, Any]) -> None:
    """Raise `UserError` where these parameters name a selector that the model cannot use.

    All is checked that can be known without the model's weights.
    """
    from svd_vlm_ros.engine import check_selection as check

    check(
        engine,
        values["selector"],
        parse_options(option for option in values["selector_options"] if option.strip()),
        visual_tokens=values["energy"] or values["visual_tokens"],
        token_cap=values["token_cap"],
    )


def _use_selector(engine: SceneEngine, settings: Settings) -> None:
    name, options = settings.selection
    engine.use_selector(
        name, visual_tokens=settings.budget, token_cap=settings.token_cap, **options
    )


def _use_system_prompt(engine: SceneEngine, settings: Settings) -> None:
    engine.use_system_prompt(settings.system_prompt)


PARTS = (
    Part("selector", ("selector", "selector_options", "token_cap"), _use_selector),
    Part("system prompt", ("system_prompt",), _use_system_prompt),
)


class LiveChanges:
    """Follows the parameters of a configured node; runs on the executor's thread."""

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._taking_back = False
        self._known_good: dict[str, tuple[Serving, Settings]] = {}  # what each part obeys

    def check(self, changed: Sequence[Parameter]) -> None:
        """Raise `UserError` where the loaded model cannot follow."""
        node = self._node
        if node.engine is None:
            return  # loading says so
        cameras = {*node.cameras, ""}
        values = {parameter.name: parameter.value for parameter in changed}
        if not self._taking_back and not _OF_SELECTION.isdisjoint(values):
            given = {name: node.get_parameter(name).value for name in _OF_SELECTION}
            check_selection(node.engine, {**given, **values})
        for parameter in changed:
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
        if not self._taking_back:
            for part in PARTS:
                if not names.isdisjoint(part.names):
                    self._follow(part)

    def catch_up(self, loaded: Settings) -> None:
        """Obey what was set while the model was being loaded with these settings."""
        for part in PARTS:
            if part.values(self._node.settings) != part.values(loaded):
                self._follow(part)

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

    def _follow(self, part: Part) -> None:
        """Let the engine follow on its own thread; where it cannot, take the parameters back."""
        node = self._node
        configured, settings = node.configured, node.settings
        if configured is None or node.engine is None:
            return  # loading takes the new values
        known = self._known_good.get(part.what)
        if known is None or known[0] is not configured:
            self._known_good[part.what] = (configured, configured.settings)

        def work(engine: SceneEngine, jobs: Sequence[Job[str]]) -> list[str]:
            part.apply(engine, settings)
            configured.answerer.scenes.clear()
            configured.looker.forget()
            return [""]

        def ended(why: str) -> None:
            if not why:
                self._known_good[part.what] = (configured, settings)
            else:
                node.in_executor(functools.partial(self._take_back, part, settings), why)

        job: Job[str] = Job(
            work,
            priority=Priority.CONTROL,
            failed=lambda error: (
                f"The {part.what} '{part.values(settings)[0][:60]}' cannot be used: {error}"
            ),
            on_end=ended,
        )
        configured.inference.submit(job, _CONTROLS)

    def _take_back(self, part: Part, failed: Settings, why: str) -> None:
        """Set the parameters to the values that the engine still obeys, where they are the same."""
        node = self._node
        node.fault(f"The former {part.what} stays in use. {why}")
        configured, good = self._known_good.get(part.what, (None, None))
        if good is None or configured is not node.configured:
            return
        if part.values(node.settings) != part.values(failed):
            return  # another one was set meanwhile
        self._taking_back = True  # the engine obeys these already
        node.set_parameters(part.parameters(good))
        self._taking_back = False
