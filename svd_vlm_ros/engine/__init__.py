# SPDX-License-Identifier: Apache-2.0
"""The one face above all models: see an image once, ask about it many times.

`engine` has `SceneEngine`; `loading` brings its parts, `runtimes` finds what computes, `scenes`
makes scenes, `answers` answers, `checks` checks a selector without weights, `values` has what it
gives out. Importing this package imports no torch; loading a model in the runtime torch does.
"""

from svd_vlm_ros.engine.checks import check_selection
from svd_vlm_ros.engine.engine import SceneEngine
from svd_vlm_ros.engine.values import Answer, AnswerTimings, EngineInfo, Scene, SceneTimings

__all__ = [
    "Answer",
    "AnswerTimings",
    "EngineInfo",
    "Scene",
    "SceneEngine",
    "SceneTimings",
    "check_selection",
]
