# SPDX-License-Identifier: Apache-2.0
"""A drive of 60 s through the world: what `scout_camera` publishes.

The drive has six stretches of 10 s. The objects of a stretch come nearer along straight lines from
the vanishing point of the path; at its end the robot turns a corner, and the next stretch begins.
"""

from __future__ import annotations

from dataclasses import replace

from .world import SIZE, WorldObject, WorldScene, sample_scene, scale_at

LENGTH = 60.0  # seconds
STRETCH = 10.0  # seconds
SPEED = 0.22  # of the distance at which an object stands at the lower edge, a second
FIRST_SEED = 20_000_000  # beyond the seeds of training and of evaluation


def drive(t: float, seed: int = 0) -> WorldScene:
    """The scene that the camera sees `t` seconds into the drive; after 60 s the drive begins anew.

    The same `t` and `seed` give the same scene. `frame` counts milliseconds, so no two images are
    alike.
    """
    at = t % LENGTH
    number = int(at // STRETCH)
    goal = sample_scene(FIRST_SEED + 1000 * seed + number, objects=(3, 5))
    left = STRETCH - at % STRETCH
    objects = tuple(_farther(goal, thing, SPEED * left) for thing in goal.objects)
    return replace(goal, objects=objects, frame=round(t * 1000))


def _farther(scene: WorldScene, thing: WorldObject, distance: float) -> WorldObject:
    """The object as it looked `distance` earlier, on its line from the vanishing point."""
    depth = SIZE - scene.horizon
    nearness = (thing.base - scene.horizon) / depth
    then = 1.0 / (1.0 / nearness + distance)
    base = scene.horizon + depth * then
    grown = thing.scale / scale_at(thing.base, scene.horizon)
    return replace(
        thing,
        x=scene.path.far_x + (thing.x - scene.path.far_x) * then / nearness,
        base=base,
        scale=grown * scale_at(base, scene.horizon),
    )
