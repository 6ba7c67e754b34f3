# SPDX-License-Identifier: Apache-2.0
"""What a change of parameters does at once, while the node runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.parameter import Parameter

from svd_vlm_ros.node.inference.tasks import Priority, Task
from svd_vlm_ros.node.parameters.rules import OF_GROUP, check_fact_camera
from svd_vlm_ros.node.parameters.settings import parse_options

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo, SceneEngine
    from svd_vlm_ros.node.parameters.settings import Settings
    from svd_vlm_ros.node.parameters.store import Parameters
    from svd_vlm_ros.node.session import Session

FEWEST_TOKENS = 16  # to which the node lowers the budget by itself
_OF_SELECTION = frozenset({"selector", "selector_options", "visual_tokens", "energy", "token_cap"})
_CHANGES = 100  # of the engine that may wait


@dataclass(frozen=True)
class EnginePart:
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
    """Raise `UserError` if these parameters name a selector that the model cannot use.

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
    EnginePart("selector", ("selector", "selector_options", "token_cap"), _use_selector),
    EnginePart("system prompt", ("system_prompt",), _use_system_prompt),
)


class EngineChange(Task[str]):
    """Lets a part of the engine follow the settings; ends with "", or why it cannot."""

    def __init__(
        self, part: EnginePart, settings: Settings, session: Session, on_end: Callable[[str], None]
    ) -> None:
        super().__init__(Priority.CONTROL, on_end)
        self._part = part
        self._settings = settings
        self._session = session

    def work(self, engine: SceneEngine, batch: Sequence[Task[str]]) -> list[str]:
        """Change the engine; what was made with the former one is let go."""
        self._part.apply(engine, self._settings)
        self._session.answerer.scenes.clear()
        self._session.describer.forget()
        return [""]

    def failure(self, error: BaseException) -> str:
        """Why the engine cannot follow."""
        value = self._part.values(self._settings)[0][:60]
        return f"The {self._part.what} '{value}' cannot be used: {error}"


class ParameterEffects:
    """Lets a configured node follow its parameters; runs on the executor's thread.

    The engine is asked to change whenever it was not asked for these values before. If it cannot,
    the parameters are set back to what it still obeys.

    Args:
        configured: the session of the moment.
        on_period: hears of another description_period, `on_facts` of other facts.
        on_fault: hears of a fault, as a sentence.
        in_executor: calls a function with an argument on the executor's thread.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        configured: Callable[[], Session | None],
        on_period: Callable[[float], None],
        on_facts: Callable[[], None],
        on_fault: Callable[[str], None],
        in_executor: Callable[[Callable[[Any], None], Any], None],
    ) -> None:
        self._parameters = parameters
        self._configured = configured
        self._on_period = on_period
        self._on_facts = on_facts
        self._on_fault = on_fault
        self._in_executor = in_executor
        self._obeyed: dict[str, Settings] = {}  # by part: what the engine does
        self._wanted: dict[str, Settings] = {}  # by part: what it was last asked to do

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise `UserError` if the loaded model cannot follow new values."""
        session = self._configured()
        engine = session.worker.info if session is not None else None
        if session is None or engine is None:
            return  # loading says so
        if not _OF_SELECTION.isdisjoint(values) and not self._is_obeyed(values):
            given = {name: self._parameters.value(name) for name in _OF_SELECTION}
            check_selection(engine, {**given, **values})
        for name, value in values.items():
            match = OF_GROUP.fullmatch(name)
            if match and (match[1], match[3]) == ("fact", "camera"):
                check_fact_camera(match[2], value, sorted(session.cameras))

    def obey(self, names: set[str], settings: Settings) -> None:
        """Do what new values ask for beyond being read by the next request."""
        session = self._configured()
        if "description_period" in names:
            self._on_period(settings.description_period)
        if session is not None:
            session.worker.queue.batch_size = settings.batch_size
        if any(name == "facts" or name.startswith("fact.") for name in names):
            self._on_facts()
        if session is not None and session.worker.info is not None:
            self._follow(session, settings)

    def catch_up(self, session: Session) -> None:
        """Begin with a session: obey what was set while its model was being loaded."""
        self._obeyed = {part.what: session.settings for part in PARTS}
        self._wanted = dict(self._obeyed)
        self._follow(session, self._parameters.current())

    def lower_budget(self, _: Any = None) -> None:
        """Halve the number of visual tokens after the device was out of memory again and again."""
        session = self._configured()
        if session is None:
            return
        engine, settings = session.worker.info, self._parameters.current()
        total = engine.visual_tokens_total if engine else settings.visual_tokens
        now = min(settings.token_cap if settings.energy else settings.visual_tokens, total)
        lower = max(now // 2, FEWEST_TOKENS)
        trouble = f"{settings.model} ran out of memory several times in a row"
        if lower >= now:
            self._on_fault(
                f"{trouble}, already with {now} visual tokens: load it in a smaller precision, or "
                "free memory of the device."
            )
            return
        changes = [Parameter("visual_tokens", value=lower)]
        if settings.energy:
            changes.append(Parameter("energy", value=0.0))
        self._parameters.set(changes)
        self._on_fault(
            f"{trouble}: visual_tokens is lowered from {now} to {lower}; set it again when there "
            "is more memory."
        )

    def _is_obeyed(self, values: Mapping[str, Any]) -> bool:
        """Whether the engine obeys all of these values of its selector already."""
        part = PARTS[0]
        obeyed = self._obeyed.get(part.what)
        if obeyed is None:
            return False
        present = {each.name: each.value for each in part.parameters(obeyed)}
        return all(
            name in present and present[name] == value
            for name, value in values.items()
            if name in _OF_SELECTION
        )

    def _follow(self, session: Session, settings: Settings) -> None:
        """Let the engine follow on its own thread, as far as it was not asked to before."""
        for part in PARTS:
            if part.values(settings) == part.values(self._wanted.get(part.what, session.settings)):
                continue
            self._wanted[part.what] = settings
            ended = functools.partial(
                self._in_executor, functools.partial(self._ended, part, settings, session)
            )
            session.worker.submit(EngineChange(part, settings, session, ended), _CHANGES)

    def _ended(self, part: EnginePart, settings: Settings, session: Session, why: str) -> None:
        """The engine has followed; if not, set the parameters back, if they are still the same."""
        if session is not self._configured():
            return
        if not why:
            self._obeyed[part.what] = settings
            return
        self._on_fault(f"The former {part.what} stays in use. {why}")
        if self._wanted[part.what] is not settings:
            return  # another one was set meanwhile
        obeyed = self._obeyed[part.what]
        self._wanted[part.what] = obeyed
        self._parameters.set(part.parameters(obeyed))
