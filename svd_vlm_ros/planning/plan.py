# SPDX-License-Identifier: Apache-2.0
"""Does a model fit on a Jetson, how fast is it there, what limits it, and what would help.

make_plan(Deployment(device="orin-nx-16", precision="int4", visual_tokens=16)).first_token
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.devices import DESKTOP_GB, DEVICES, Device, find_device
from svd_vlm_ros.planning.flops import PAPER_TOKENS, read_work, true_work
from svd_vlm_ros.planning.known import find_sizes
from svd_vlm_ros.planning.memory import (
    Part,
    check_precision,
    floats_of,
    linear_bytes,
    running_parts,
    weight_parts,
)
from svd_vlm_ros.planning.published import EAGER, ENGINE, Measurement, measured_on
from svd_vlm_ros.planning.roofline import Time, pass_time, software
from svd_vlm_ros.planning.views import TYPICAL, Size, View

SOFTWARE = (ENGINE, EAGER)
MATRIX_PRECISIONS = ("fp16", "int8", "int4")
MATRIX_TOKENS = (192, 64, 16)  # and all
BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "int4": 4}
TIGHT = 0.06  # of the memory: less than this to spare is tight
WORTH = 0.8  # a change is worth naming if it takes this share of the time or less
# The Gram matrix's eigenvalues on the module's ARM cores; 13 to 59 ms on two x86 cores (estimate).
SELECT_SECONDS = 0.03
FP32_SHARE = 1 / 8  # of the FP16 rate: without tensor cores


@dataclass(frozen=True)
class Deployment:
    """What is to run, and on which module.

    Attributes:
        device: key of a module.
        precision: one of `memory.PRECISIONS`.
        visual_tokens: to keep of each image.
        model: as `known.find_sizes` takes it.
        image: height and width of what the cameras send.
        cameras: watched in turn, each with a Scene in memory.
        text_tokens: of prompt and question.
        answer_tokens: written for each image.
        software: ENGINE or EAGER.
        desktop: whether a desktop runs beside it.
    """

    device: str
    precision: str = "int4"
    visual_tokens: int = 64
    model: str = "llava-1.5-7b"
    cameras: int = 1
    text_tokens: int = 50
    answer_tokens: int = 16
    software: str = ENGINE
    desktop: bool = False
    image: Size = TYPICAL


@dataclass(frozen=True)
class Plan:
    """What comes of it. Seconds hold for one camera's image and one question about it.

    Attributes:
        deployment: what is to run.
        device: the module.
        view: what an image is to the model.
        parts: the memory by part, the system's reserve last.
        needed_bytes, capacity_bytes: of all parts; of the module.
        fits: "yes", "tight" or "no".
        vision, select, project, prefill: seconds up to the first token; `select` is an estimate.
        token: seconds of a written token.
        limit: of the first token: "compute", "bandwidth", "kernel launches"; "memory" if it does
            not fit.
        token_limit: of a written token.
        measured: tokens/s of the same language model on this module, as others have measured them.
        advice: the cheapest change that would help, in a sentence.
    """

    deployment: Deployment
    device: Device
    view: View
    parts: tuple[Part, ...]
    needed_bytes: float
    capacity_bytes: float
    fits: str
    vision: float
    select: float
    project: float
    prefill: float
    token: float
    limit: str
    token_limit: str
    measured: tuple[Measurement, ...] = ()
    advice: str = ""

    @property
    def first_token(self) -> float:
        """Seconds from the image to the first token."""
        return self.vision + self.select + self.project + self.prefill

    @property
    def answer(self) -> float:
        """Seconds from the image to the last token; the prefill gives the first."""
        return self.first_token + (self.deployment.answer_tokens - 1) * self.token

    @property
    def camera_period(self) -> float:
        """Seconds between two answers about the same camera."""
        return self.deployment.cameras * self.answer


def make_plan(wanted: Deployment) -> Plan:
    """Calculate a deployment's memory and times, and what would help.

    Raises:
        UserError: a name is not known or a number is out of range.
    """
    plan = _calculate(wanted)
    return replace(plan, advice=_advise(plan))


def matrix(wanted: Deployment) -> list[Plan]:
    """Every module in fp16, int8 and int4 with all, 192, 64 and 16 tokens, the rest as given."""
    whole = find_sizes(wanted.model).view(wanted.image).tokens
    budgets = (whole, *(tokens for tokens in MATRIX_TOKENS if tokens < whole))
    return [
        _calculate(replace(wanted, device=device, precision=precision, visual_tokens=tokens))
        for device in DEVICES
        for precision in MATRIX_PRECISIONS
        for tokens in budgets
    ]


def _calculate(wanted: Deployment) -> Plan:
    device, model = find_device(wanted.device), find_sizes(wanted.model)
    check_precision(wanted.precision)
    if wanted.software not in SOFTWARE:
        raise UserError(f"There is no software '{wanted.software}': take {' or '.join(SOFTWARE)}.")
    for name in ("cameras", "text_tokens", "answer_tokens"):
        if getattr(wanted, name) < 1:
            raise UserError(f"{name} must be 1 or more, not {getattr(wanted, name)}.")
    kind, text = software(wanted.software), model.decoder
    work = true_work(model, wanted.visual_tokens, wanted.text_tokens, wanted.image)
    view = model.view(wanted.image)
    if wanted.precision == "fp32":
        device = replace(device, fp16_tflops=device.fp16_tflops * FP32_SHARE)
    read = view.read(wanted.visual_tokens) + wanted.text_tokens
    size = floats_of(wanted.precision).matrix
    linears = linear_bytes(text, wanted.precision)
    weights = linears + size * text.embedding_weights
    if wanted.software == EAGER and wanted.precision == "int4":
        # bitsandbytes' NF4 unpacks each layer before it multiplies more than 4 rows: 16 bits are
        # written and read again for each weight.
        unpacked = 2 * size * text.linear_weights
    else:
        unpacked = 0
    vision = pass_time(
        device, kind, work.vision, size * model.tower.weights, model.tower.layers_used
    )
    project = pass_time(device, kind, work.projector, size * model.connector.weights, 1)
    prefill = pass_time(
        device, kind, read_work(text, read) + work.head, weights + unpacked, text.layers
    )
    cached = (read + wanted.answer_tokens / 2) * text.cache_numbers * size
    token = pass_time(device, kind, text.linear_weights + work.head, weights + cached, text.layers)
    reserve = device.reserve_gb + (DESKTOP_GB if wanted.desktop else 0)
    parts = (
        *weight_parts(model, wanted.precision),
        *running_parts(
            model,
            wanted.precision,
            view,
            visual_tokens=wanted.visual_tokens,
            text_tokens=wanted.text_tokens,
            answer_tokens=wanted.answer_tokens,
            cameras=wanted.cameras,
        ),
        Part("system", reserve * 1e9, estimate=device.reserve_is_estimate),
    )
    needed, capacity = sum(part.bytes for part in parts), device.capacity_bytes
    fits = "no" if needed > capacity else "tight" if needed > (1 - TIGHT) * capacity else "yes"
    return Plan(
        deployment=wanted,
        device=find_device(wanted.device),
        view=view,
        parts=parts,
        needed_bytes=needed,
        capacity_bytes=capacity,
        fits=fits,
        vision=vision.seconds,
        select=SELECT_SECONDS if wanted.visual_tokens < view.tokens else 0.0,
        project=project.seconds,
        prefill=prefill.seconds,
        token=token.seconds,
        limit=_limit((vision, project, prefill)) if fits != "no" else "memory",
        token_limit=token.limit if fits != "no" else "memory",
        measured=measured_on(device, text, BITS[wanted.precision]),
    )


def _limit(times: tuple[Time, ...]) -> str:
    """What most of the time is spent on."""
    spent = {"compute": 0.0, "bandwidth": 0.0, "kernel launches": 0.0}
    for time in times:
        spent["kernel launches"] += time.launch
        spent["compute" if time.compute >= time.memory else "bandwidth"] += max(
            time.compute, time.memory
        )
    return max(spent, key=spent.__getitem__)


def _advise(plan: Plan) -> str:
    """The first of the changes, the cheapest first, that makes it fit, or clearly faster."""
    changes = _changes(plan.deployment)
    if plan.fits == "no":
        for words, wanted in changes:
            changed = _calculate(wanted)
            if changed.fits != "no":
                spare = (changed.capacity_bytes - changed.needed_bytes) / 1e9
                return f"{words} makes it fit, with {spare:.1f} GB to spare."
        return "No module of the table holds it."
    for words, wanted in changes:
        changed = _calculate(wanted)
        if changed.fits != "no" and changed.answer <= WORTH * plan.answer:
            gain = plan.answer / changed.answer
            return f"{words} makes the answer {gain:.1f} times as fast ({changed.answer:.2f} s)."
    return "Nothing in the table makes the answer a fifth faster."


def _changes(wanted: Deployment) -> list[tuple[str, Deployment]]:
    """Changes from the cheapest to the dearest, each with words that begin a sentence."""
    if wanted.desktop:
        bare = replace(wanted, desktop=False)
        more = [(f"{words}, without a desktop,", changed) for words, changed in _changes(bare)]
        return [("Running without a desktop", bare), *more]
    changes = []
    module = DEVICES[find_device(wanted.device).key]
    if module.super_mode:
        changes.append(("The power mode Super", replace(wanted, device=module.super_mode)))
    fewer = [tokens for tokens in PAPER_TOKENS if tokens < wanted.visual_tokens]
    changes += [
        (f"Keeping {tokens} visual tokens", replace(wanted, visual_tokens=tokens))
        for tokens in fewer
    ]
    order = ("fp32", "fp16", "int8", "int4")
    at = order.index("fp16" if wanted.precision == "bf16" else wanted.precision)
    for precision in order[at + 1 :]:
        changes.append((f"Quantizing to {precision}", replace(wanted, precision=precision)))
        if fewer:
            both = replace(wanted, precision=precision, visual_tokens=fewer[-1])
            changes.append((f"{precision} with {fewer[-1]} visual tokens", both))
    if wanted.software == EAGER:
        changes.append(
            ("A compiled engine (CUDA graphs, fused kernels)", replace(wanted, software=ENGINE))
        )
    bigger = sorted(
        (d for d in DEVICES.values() if d.memory_gb >= module.memory_gb and d.key != module.key),
        key=lambda d: (d.memory_gb, d.bandwidth_gbs, d.fp16_tflops),
    )
    changes += [(f"The module {d.name}", replace(wanted, device=d.key)) for d in bigger]
    return changes
