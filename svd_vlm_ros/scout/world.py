# SPDX-License-Identifier: Apache-2.0
"""The little outdoor world that scout knows: what can be in a scene, where, and whether it may be
asked about.

A scene is a frozen value made from a seed. `render.render` draws it, `labels.patch_labels` names
what each patch of the image shows, `questions.questions` asks about it; all three read the same
geometry, so they can't disagree.

Units: pixels of the 336 x 336 image, x to the right, y down, light as a factor of the drawn
colour.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

SIZE = 336
"""Width and height of an image in pixels: 24 x 24 patches of 14."""

KINDS = ("tree", "rock", "cone", "person", "car", "barrel", "box", "sign")
COLORS = ("red", "orange", "yellow", "green", "blue", "white", "black", "gray", "brown")
GROUNDS = ("grass", "gravel", "asphalt", "sand", "snow")
SKIES = ("clear", "overcast", "dusk")
SIDES = ("left", "center", "right")

PALETTE: dict[str, tuple[str, ...]] = {
    "tree": ("green", "orange", "yellow"),
    "rock": ("gray", "brown", "black"),
    "cone": ("orange", "red", "green", "blue"),
    "person": ("red", "blue", "yellow", "green", "white", "black"),
    "car": ("red", "blue", "white", "black", "yellow", "green"),
    "barrel": ("blue", "red", "green", "yellow"),
    "box": ("brown", "white", "blue", "red"),
    "sign": ("white", "yellow", "blue", "green"),
}
"""The colours that each kind comes in."""

FULL_SIZE: dict[str, tuple[float, float]] = {
    "tree": (120, 178),
    "rock": (84, 60),
    "cone": (52, 74),
    "person": (48, 126),
    "car": (156, 84),
    "barrel": (60, 84),
    "box": (72, 66),
    "sign": (92, 128),
}
"""Width and height in pixels of an object that stands at the lower edge of the image."""

HELD_OUT_SEEDS = range(10_000_000, 10_100_000)
"""Seeds of the scenes for evaluation. Training draws its seeds from below this range, the tests and
the demo from above it.
"""

SMALLEST = 0.42  # scale of an object at the horizon; smaller ones would fall under a patch
SIDE_MARGIN = 0.03 * SIZE  # no object's middle is nearer than this to the border between two sides
COLUMN_GAP = (
    0.04 * SIZE
)  # the middles of two objects differ by at least this much, so "left of" has an answer
PATH_GAP = 6.0  # pixels between an object beside the path and the path's edge


@dataclass(frozen=True)
class WorldObject:
    """A thing on the ground. `x` is its middle and `base` its lower edge, in pixels."""

    kind: str
    color: str
    x: float
    base: float
    scale: float
    number: int | None = None  # two digits, signs only
    look: int = 0  # seed of what the question never asks for: outline, shade, mirrored or not

    @property
    def width(self) -> float:
        """Pixels across."""
        return FULL_SIZE[self.kind][0] * self.scale

    @property
    def height(self) -> float:
        """Pixels from foot to top."""
        return FULL_SIZE[self.kind][1] * self.scale

    @property
    def side(self) -> str:
        """Third of the image in which the object's middle lies."""
        return SIDES[min(2, max(0, int(self.x * 3 / SIZE)))]

    @property
    def name(self) -> str:
        """Colour and kind."""
        return f"{self.color} {self.kind}"


@dataclass(frozen=True)
class Path:
    """A trail from the lower edge to the horizon. Middle and half width in pixels at both of its
    ends.
    """

    near_x: float
    near_half: float
    far_x: float
    far_half: float

    def at(self, y: float, horizon: float) -> tuple[float, float]:
        """Left and right edge in pixels at height `y`."""
        t = min(1.0, max(0.0, (y - horizon) / (SIZE - horizon)))
        middle = self.far_x + t * (self.near_x - self.far_x)
        half = self.far_half + t * (self.near_half - self.far_half)
        return middle - half, middle + half


@dataclass(frozen=True)
class WorldScene:
    """All that is in one image. `objects` run from far to near, the order in which they are
    drawn.
    """

    seed: int
    ground: str
    sky: str
    horizon: float
    path: Path
    objects: tuple[WorldObject, ...]
    light: float = 1.0
    noise: float = 0.0  # standard deviation of the sensor noise, in steps of 255
    frame: int = 0  # number of the image in a drive: the noise is new in each one

    def blocks(self, thing: WorldObject) -> bool:
        """Whether the object's foot stands on the path."""
        left, right = self.path.at(thing.base, self.horizon)
        half = foot_width(thing) / 2
        return thing.x + half > left and thing.x - half < right

    @property
    def path_clear(self) -> bool:
        """Whether nothing stands on the path."""
        return not any(self.blocks(thing) for thing in self.objects)

    @property
    def nearest(self) -> WorldObject | None:
        """The object whose foot is lowest in the image; None in an empty scene."""
        return max(self.objects, key=lambda thing: thing.base, default=None)


def clear_side(thing: WorldObject) -> bool:
    """Whether the object's middle is far enough from the border between two sides to be clearly on
    one of them.
    """
    return min(abs(thing.x - SIZE / 3), abs(thing.x - 2 * SIZE / 3)) >= SIDE_MARGIN


def clear_order(a: WorldObject, b: WorldObject) -> bool:
    """Whether one of the two is clearly left of the other."""
    return abs(a.x - b.x) >= COLUMN_GAP


def clear_path_state(scene: WorldScene) -> bool:
    """Whether every object is clearly on the path or clearly beside it."""
    return not any(at_path_edge(scene, thing) for thing in scene.objects)


def clear_count(scene: WorldScene) -> bool:
    """Whether every object can be seen: none mostly behind another or mostly outside."""
    for i, thing in enumerate(scene.objects):
        if _outside(thing) > 0.3 * thing.width:
            return False
        if any(_hidden_share(thing, other) > 0.45 for other in scene.objects[i + 1 :]):
            return False
    return True


def foot_width(thing: WorldObject) -> float:
    """Width in pixels of what touches the ground: a tree's trunk and a sign's post are narrower
    than they look.
    """
    share = {"tree": 0.3, "sign": 0.25}.get(thing.kind, 0.9)
    return thing.width * share


def scale_at(base: float, horizon: float) -> float:
    """Scale of an object whose lower edge is at `base`: 1 at the lower edge of the image,
    `SMALLEST` at the horizon.
    """
    return SMALLEST + (1 - SMALLEST) * max(0.0, base - horizon) / (SIZE - horizon)


def truth(scene: WorldScene) -> dict:
    """What is in the scene, ready for JSON."""
    fields = asdict(scene)
    for entry, thing in zip(fields["objects"], scene.objects, strict=True):
        entry.update(side=thing.side, blocks_path=scene.blocks(thing))
    nearest = scene.nearest
    return {
        **fields,
        "path_clear": scene.path_clear,
        "nearest": nearest.name if nearest else None,
    }


def scene_from_truth(fields: dict) -> WorldScene:
    """The scene that `truth` described: its inverse."""
    derived = ("side", "blocks_path")
    objects = tuple(
        WorldObject(**{k: v for k, v in entry.items() if k not in derived})
        for entry in fields["objects"]
    )
    plain = {
        k: v for k, v in fields.items() if k not in ("objects", "path", "path_clear", "nearest")
    }
    return WorldScene(**plain, path=Path(**fields["path"]), objects=objects)


def sample_scene(seed: int, *, objects: tuple[int, int] = (1, 6), signs: float = 0.0) -> WorldScene:
    """A scene of the world.

    Args:
        seed: the same seed gives the same scene, on any machine.
        objects: fewest and most objects; training's crowded scenes go beyond the world's own 1 to
            6.
        signs: share of the objects that are made signs whatever was drawn (for training to read).

    One half of the scenes have a clear path. Every question of `questions` has one answer: no
    object's middle lies on the border of two sides, beside another's, or at the edge of the path.
    """
    rng = np.random.default_rng(seed)
    horizon = float(rng.uniform(0.34, 0.46) * SIZE)
    near_x = float(rng.uniform(0.36, 0.64) * SIZE)
    path = Path(
        near_x=near_x,
        near_half=float(rng.uniform(0.14, 0.21) * SIZE),
        far_x=float(near_x + rng.uniform(-0.12, 0.12) * SIZE),
        far_half=float(rng.uniform(0.015, 0.03) * SIZE),
    )
    scene = WorldScene(
        seed=seed,
        ground=str(rng.choice(GROUNDS)),
        sky=str(rng.choice(SKIES)),
        horizon=horizon,
        path=path,
        objects=(),
        light=float(rng.uniform(0.78, 1.1)),
        noise=float(rng.uniform(0.0, 8.0)),
    )
    wanted = int(rng.integers(objects[0], objects[1] + 1))
    clear = bool(rng.random() < 0.5)
    return _with_objects(scene, _place(scene, wanted, clear, signs, rng))


def _with_objects(scene: WorldScene, things: list[WorldObject]) -> WorldScene:
    ordered = tuple(sorted(things, key=lambda thing: thing.base))
    return WorldScene(**{**scene.__dict__, "objects": ordered})


def _place(
    scene: WorldScene, wanted: int, clear: bool, signs: float, rng: np.random.Generator
) -> list[WorldObject]:
    """Objects at random places that keep to the world's margins; fewer than wanted if there is
    no room.
    """
    things: list[WorldObject] = []
    must_block = not clear
    for _ in range(40 * wanted):
        if len(things) == wanted:
            break
        thing = _draw_object(scene, signs, rng)
        if must_block:  # the first one of a blocked scene is put on the path
            left, right = scene.path.at(thing.base, scene.horizon)
            moved = {**thing.__dict__, "x": float(rng.uniform(left, right))}
            thing = WorldObject(**moved)
        crowd = 1.0 if wanted <= 6 else 6 / wanted
        if not _well_placed(scene, thing, things, clear, crowd):
            continue
        things.append(thing)
        must_block = False
    return things


def _draw_object(scene: WorldScene, signs: float, rng: np.random.Generator) -> WorldObject:
    kind = "sign" if rng.random() < signs else str(rng.choice(KINDS))
    depth = rng.random() ** 0.8
    base = scene.horizon + 6 + depth * (SIZE - 4 - scene.horizon - 6)
    return WorldObject(
        kind=kind,
        color=str(rng.choice(PALETTE[kind])),
        x=float(rng.uniform(0.04, 0.96) * SIZE),
        base=float(base),
        scale=float(scale_at(base, scene.horizon) * rng.uniform(0.92, 1.08)),
        number=int(rng.integers(10, 100)) if kind == "sign" else None,
        look=int(rng.integers(0, 2**31)),
    )


def _well_placed(
    scene: WorldScene, thing: WorldObject, others: list[WorldObject], clear: bool, crowd: float
) -> bool:
    if _outside(thing) > (0.0 if thing.kind == "sign" else 0.25 * thing.width):
        return False
    if not clear_side(thing):
        return False
    if at_path_edge(scene, thing) or (clear and scene.blocks(thing)):
        return False
    for other in others:
        if (
            abs(other.x - thing.x) < COLUMN_GAP * crowd
            or abs(other.base - thing.base) < 5.0 * crowd
        ):
            return False
        if _hidden_share(thing, other) > (0.0 if "sign" in (thing.kind, other.kind) else 0.4):
            return False
    return True


def _outside(thing: WorldObject) -> float:
    """Pixels of the object's width that lie outside the image."""
    return max(0.0, thing.width / 2 - thing.x) + max(0.0, thing.x + thing.width / 2 - SIZE)


def at_path_edge(scene: WorldScene, thing: WorldObject) -> bool:
    """Neither clearly on the path (a quarter of its foot) nor clearly beside it."""
    left, right = scene.path.at(thing.base, scene.horizon)
    foot = foot_width(thing)
    overlap = min(thing.x + foot / 2, right) - max(thing.x - foot / 2, left)
    return -PATH_GAP < overlap < 0.25 * min(foot, right - left)


def _hidden_share(a: WorldObject, b: WorldObject) -> float:
    """Share of the farther one's box that the nearer one's box covers."""
    far, near = (a, b) if a.base < b.base else (b, a)
    across = min(far.x + far.width / 2, near.x + near.width / 2) - max(
        far.x - far.width / 2, near.x - near.width / 2
    )
    down = min(far.base, near.base) - max(far.base - far.height, near.base - near.height)
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (far.width * far.height)
