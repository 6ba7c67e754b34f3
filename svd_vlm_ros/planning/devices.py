# SPDX-License-Identifier: Apache-2.0
"""The Jetson modules: memory, bandwidth, arithmetic, and where each number is from.

The rate in FP16 is multiprocessors x 1024 multiply-accumulates x 2 x clock (dense, tensor cores).
The marketed TOPS are sparse INT8 and contain the DLA, which does not help a language model.
"Super" is a power mode of JetPack 6.2 with higher clocks, not another module.
"""

from __future__ import annotations

from dataclasses import dataclass

from svd_vlm_ros.errors import UserError

DATA_SHEET = "NVIDIA module data sheet"
CLOCKS = "multiprocessors x 1024 x 2 x GPU clock"


@dataclass(frozen=True)
class Device:
    """A module in one power mode.

    Attributes:
        key: its name on the command line.
        name: its name in words.
        memory_gb: shared by CPU and GPU, as marketed; see `capacity_bytes`.
        bandwidth_gbs: of the memory, in 10^9 bytes a second.
        fp16_tflops: dense, tensor cores, 10^12 a second (a multiply-accumulate counts as two).
        rate_is_estimate: the rate was derived from a clock that is not in a data sheet.
        reserve_gb: what the system takes without a desktop.
        reserve_is_estimate: nobody has reported it.
        source: where memory, bandwidth and rate are from.
        super_mode: the key of the same module with higher clocks, "" if there is none.
        generation: orin or thor.
    """

    key: str
    name: str
    memory_gb: int
    bandwidth_gbs: float
    fp16_tflops: float
    rate_is_estimate: bool
    reserve_gb: float
    reserve_is_estimate: bool
    source: str
    super_mode: str = ""
    generation: str = "orin"

    @property
    def capacity_bytes(self) -> float:
        """What the system reports as memory: 10^9 for each marketed GB.

        An AGX Orin 32 GB reports 30,698 MiB, which is 32.2 x 10^9 bytes; the rest of its 32 GiB is
        carved out before Linux starts. The other modules are taken to lose as much.
        """
        return self.memory_gb * 1e9


DESKTOP_GB = 0.8  # what going headless frees (reported for an Orin Nano 8 GB)

_SHEET = f"{DATA_SHEET}; FP16 from {CLOCKS}"
_SUPER = f"JetPack 6.2 release (Super mode); FP16 from {CLOCKS}"

DEVICES = {
    device.key: device
    for device in (
        Device("agx-orin-64", "AGX Orin 64 GB", 64, 204.8, 42.6, False, 3.0, True, _SHEET),
        Device("agx-orin-32", "AGX Orin 32 GB", 32, 204.8, 26.7, True, 3.0, True, _SHEET),
        Device(
            *("orin-nx-16", "Orin NX 16 GB", 16, 102.4, 15.0, False, 3.0, False, _SHEET),
            super_mode="orin-nx-16-super",
        ),
        Device(
            *("orin-nx-16-super", "Orin NX 16 GB Super", 16, 102.4, 19.2, True, 3.0, False),
            _SUPER,
        ),
        Device(
            *("orin-nx-8", "Orin NX 8 GB", 8, 102.4, 12.5, True, 2.0, False, _SHEET),
            super_mode="orin-nx-8-super",
        ),
        Device(
            *("orin-nx-8-super", "Orin NX 8 GB Super", 8, 102.4, 19.2, True, 2.0, False),
            _SUPER,
        ),
        Device(
            *("orin-nano-8", "Orin Nano 8 GB", 8, 68.0, 10.2, False, 2.0, False, _SHEET),
            super_mode="orin-nano-8-super",
        ),
        Device(
            *("orin-nano-8-super", "Orin Nano 8 GB Super", 8, 102.0, 16.7, True, 2.0, False),
            _SUPER,
        ),
        Device(
            *("orin-nano-4", "Orin Nano 4 GB", 4, 34.0, 5.1, False, 1.6, True, _SHEET),
            super_mode="orin-nano-4-super",
        ),
        Device(
            *("orin-nano-4-super", "Orin Nano 4 GB Super", 4, 51.0, 8.4, True, 1.6, True),
            _SUPER,
        ),
        Device(
            *("thor-t5000", "Thor T5000", 128, 273.0, 258.0, True, 4.0, True),
            f"{DATA_SHEET}; FP16 as an eighth of the marketed sparse FP4",
            generation="thor",
        ),
    )
}


def find_device(key: str) -> Device:
    """A device by its name on the command line. Raises `UserError` with the choices."""
    device = DEVICES.get(key.lower().replace("_", "-"))
    if device is None:
        raise UserError(f"There is no device '{key}': take one of {', '.join(DEVICES)}.")
    return device
