# SPDX-License-Identifier: Apache-2.0
"""What others have measured on Jetson modules: the roofline's efficiencies are solved from these.

Only what a report leaves no doubt about takes part in the solving (`held`): model, precision,
tokens and software. The rest is compared and shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from svd_vlm_ros.planning.devices import DEVICES, Device
from svd_vlm_ros.planning.known import find_sizes
from svd_vlm_ros.planning.shapes import Decoder, ModelSizes
from svd_vlm_ros.planning.views import TYPICAL, Size

LLAMA_2_7B = Decoder(4096, 11008, 32, 32, 32, 128, 32000)
LLAMA_2_13B = Decoder(5120, 13824, 40, 40, 40, 128, 32000)
LLAMA_3_8B = Decoder(4096, 14336, 32, 32, 8, 128, 128256)
QWEN_2_5_7B = Decoder(3584, 18944, 28, 28, 4, 128, 152064)
QWEN_3_8B = Decoder(4096, 12288, 36, 32, 8, 128, 151936)
LLAVA_7B = find_sizes("llava-1.5-7b")
QWEN_3_VL_8B = find_sizes("qwen3-vl-8b")
COSMOS_2B = find_sizes("cosmos-reason2-2b")
QWEN_3_2B = COSMOS_2B.decoder

# Bits of a weight with its scales.
FP16 = 16.0
MLC = 4.5  # q4f16_1: groups of 32 with a 16-bit scale, the output head as well
AWQ = 4.125  # groups of 128 with a 16-bit scale; the output head stays in 16 bits
Q4_K = 4.85  # llama.cpp's Q4_K_M

ENGINE = "engine"
EAGER = "eager"
LLAMA_CPP = "llama.cpp"

MLC_REPORT = "Jetson AI Lab, MLC benchmarks"
SUPER_BLOG = "NVIDIA developer blog on Orin Nano Super (INT4, MLC)"
EDGE_LLM = "TensorRT Edge-LLM 0.8, performance benchmarks"
NANO_LLM = "Jetson AI Lab, NanoLLM and NanoVLM charts"
TINY_CHAT = "VILA and TinyChat, AWQ on Jetson Orin"
HF_REPORT = "Hugging Face transformers on AGX Orin, community report"
ROS_OLLAMA = "a ROS 2 project with Ollama, community report"
# hokwangchoi.com/blog/vlm-benchmarks, April 2026, and its profiles: headless, MAXN_SUPER.
THREE_RUNTIMES = "three runtimes on one Orin Nano, community report"


@dataclass(frozen=True)
class Measurement:
    """One published number.

    Attributes:
        what: model and precision in words.
        device: key of the module.
        kind: "prefill" (seconds to read `tokens`), "decode" (seconds for one token), "vision"
            (seconds for one image), "image" (image, prompt of `tokens` in all, and
            `answer` tokens).
        seconds: the measured time.
        decoder: the language model, None for vision.
        bits, head_bits: of a weight in the linear layers, and in the output head.
        runtime: ENGINE, EAGER or LLAMA_CPP.
        tokens: that are read; for decode those in the cache.
        answer: tokens written, for "image".
        model: for vision and image.
        image: its size, for these.
        used_bytes: memory of the whole system at the peak; 0: not stated.
        held: whether it takes part in the solving and must be met.
        source: who has published it.
        note: what the report leaves open.
    """

    what: str
    device: str
    kind: str
    seconds: float
    decoder: Decoder | None
    bits: float
    head_bits: float
    runtime: str
    tokens: int
    source: str
    answer: int = 0
    model: ModelSizes | None = None
    image: Size = TYPICAL
    used_bytes: float = 0.0
    held: bool = True
    note: str = ""

    @property
    def shown(self) -> str:
        """The number as it is usually given: tokens/s for decode, ms for the rest."""
        if self.kind == "decode":
            return f"{1 / self.seconds:.1f} tokens/s"
        return f"{self.seconds * 1e3:.1f} ms" if self.seconds < 1 else f"{self.seconds:.2f} s"

    @property
    def program(self) -> str:
        """What has run it, as far as the report says."""
        return self.note or self.runtime


def _decode(
    what: str,
    device: str,
    tokens_a_second: float,
    decoder: Decoder,
    bits: float,
    head_bits: float,
    runtime: str,
    source: str,
    note: str = "",
    used_bytes: float = 0.0,
    cached: int = 128,
) -> Measurement:
    return Measurement(
        *(what, device, "decode", 1 / tokens_a_second, decoder, bits, head_bits, runtime, cached),
        source,
        used_bytes=used_bytes,
        note=note,
    )


MEASUREMENTS = (
    Measurement(
        *("Llama-2-7B q4f16, 16 tokens", "agx-orin-64", "prefill", 0.025, LLAMA_2_7B),
        *(MLC, MLC, ENGINE, 16, MLC_REPORT),
    ),
    Measurement(
        *("Qwen3-8B INT4 AWQ, 370 tokens", "agx-orin-64", "prefill", 0.2739, QWEN_3_8B),
        *(AWQ, FP16, ENGINE, 370, EDGE_LLM),
    ),
    Measurement(
        *("Qwen3-8B INT4 AWQ, 370 tokens", "orin-nx-16-super", "prefill", 0.615, QWEN_3_8B),
        *(AWQ, FP16, ENGINE, 370, EDGE_LLM),
        note="power mode not stated; taken to be Super, as without it the rate would be 57 %",
    ),
    Measurement(
        *("Qwen3-VL-8B INT4 AWQ, 283 tokens", "agx-orin-64", "prefill", 0.213, QWEN_3_8B),
        *(AWQ, FP16, ENGINE, 283, EDGE_LLM),
    ),
    Measurement(
        *("Cosmos-Reason2-2B AWQ, 512 tokens", "orin-nano-8-super", "prefill", 0.2108, QWEN_3_2B),
        *(AWQ, FP16, ENGINE, 512, THREE_RUNTIMES),
    ),
    _decode(*("Llama-2-7B q4f16", "agx-orin-64", 46.9, LLAMA_2_7B, MLC, MLC, ENGINE, MLC_REPORT)),
    _decode(*("LLaVA-13B q4f16", "agx-orin-64", 21.1, LLAMA_2_13B, MLC, MLC, ENGINE, NANO_LLM)),
    _decode(*("Qwen3-8B INT4 AWQ", "agx-orin-64", 32.1, QWEN_3_8B, AWQ, FP16, ENGINE, EDGE_LLM)),
    _decode(
        *("Qwen3-8B INT4 AWQ", "orin-nx-16-super", 18.6, QWEN_3_8B, AWQ, FP16, ENGINE, EDGE_LLM)
    ),
    _decode(*("Qwen3-VL-8B INT4 AWQ", "agx-orin-64", 32.2, QWEN_3_8B, AWQ, FP16, ENGINE, EDGE_LLM)),
    _decode(
        *("VILA-7B fp16", "agx-orin-64", 1 / 0.08695, LLAMA_2_7B, FP16, FP16, ENGINE, TINY_CHAT)
    ),
    _decode(
        *("VILA-7B INT4 AWQ", "agx-orin-64", 1 / 0.02809, LLAMA_2_7B, AWQ, FP16, ENGINE, TINY_CHAT)
    ),
    _decode(*("Llama-3.1-8B q4f16", "orin-nano-8", 14.0, LLAMA_3_8B, MLC, MLC, ENGINE, SUPER_BLOG)),
    _decode(
        *("Llama-3.1-8B q4f16", "orin-nano-8-super", 19.14, LLAMA_3_8B, MLC, MLC, ENGINE),
        SUPER_BLOG,
    ),
    _decode(*("Qwen2.5-7B q4f16", "orin-nano-8", 14.2, QWEN_2_5_7B, MLC, MLC, ENGINE, SUPER_BLOG)),
    _decode(
        *("Qwen2.5-7B q4f16", "orin-nano-8-super", 21.75, QWEN_2_5_7B, MLC, MLC, ENGINE),
        SUPER_BLOG,
    ),
    _decode(
        *("Cosmos-Reason2-2B INT4 AWQ", "orin-nano-8-super", 59.8, QWEN_3_2B, AWQ, FP16, ENGINE),
        THREE_RUNTIMES,
        note="TensorRT Edge-LLM",
        used_bytes=4.55e9,
        cached=576,  # an image, a question, half of the answer
    ),
    _decode(
        *("Cosmos-Reason2-2B W4A16", "orin-nano-8-super", 56.5, QWEN_3_2B, AWQ, FP16, ENGINE),
        THREE_RUNTIMES,
        note="vLLM, with CUDA graphs and Marlin's kernels",
        used_bytes=6.9e9,
    ),
    _decode(*("Llama-2-7B fp16", "agx-orin-64", 6.2, LLAMA_2_7B, FP16, FP16, EAGER, HF_REPORT)),
    _decode(*("Llama-2-7B GPTQ", "agx-orin-64", 10.3, LLAMA_2_7B, AWQ, FP16, EAGER, HF_REPORT)),
    _decode(*("Llama-2-7B AWQ", "agx-orin-64", 11.2, LLAMA_2_7B, AWQ, FP16, EAGER, HF_REPORT)),
    _decode(*("LLaVA-13B fp16", "agx-orin-64", 4.2, LLAMA_2_13B, FP16, FP16, EAGER, NANO_LLM)),
    _decode(*("LLaVA-13B Q4_K", "agx-orin-64", 10.1, LLAMA_2_13B, Q4_K, Q4_K, LLAMA_CPP, NANO_LLM)),
    _decode(
        *("Cosmos-Reason2-2B Q4_K", "orin-nano-8-super", 38.3, QWEN_3_2B, Q4_K, Q4_K, LLAMA_CPP),
        THREE_RUNTIMES,
    ),
    Measurement(
        *("Cosmos-Reason2-2B's tower", "orin-nano-8-super", "vision", 0.208, None, FP16, FP16),
        *(ENGINE, 0, THREE_RUNTIMES),
        model=COSMOS_2B,
        image=(608, 832),  # one of those that become the reported 494 visual tokens
    ),
    Measurement(
        *("Qwen3-VL-8B's tower", "agx-orin-64", "vision", 0.0565, None, FP16, FP16, ENGINE, 0),
        EDGE_LLM,
        model=QWEN_3_VL_8B,
        image=(512, 512),  # a prompt of 283 tokens holds one such image
        held=False,
        note="size of the image not stated; 512 x 512 assumed",
    ),
    Measurement(
        *("LLaVA-7B q4f16, a frame", "agx-orin-64", "image", 1 / 1.43, LLAMA_2_7B),
        *(MLC, MLC, ENGINE, 626, NANO_LLM),
        answer=2,
        model=LLAVA_7B,
        held=False,
        note="with camera and display; a yes/no answer of 2 tokens assumed",
    ),
    Measurement(
        *("LLaVA-7B q4f16, a frame", "orin-nano-8", "image", 1 / 0.55, LLAMA_2_7B),
        *(MLC, MLC, ENGINE, 626, NANO_LLM),
        answer=2,
        model=LLAVA_7B,
        held=False,
        note="with camera and display; a yes/no answer of 2 tokens assumed",
    ),
    Measurement(
        *("LLaVA-7B Q4_K, an image", "agx-orin-64", "image", 12.5, LLAMA_2_7B),
        *(Q4_K, Q4_K, LLAMA_CPP, 626, ROS_OLLAMA),
        answer=128,
        model=LLAVA_7B,
        held=False,
        note="10 to 15 s reported; an answer of 128 tokens assumed",
    ),
)


def measured_on(device: Device, decoder: Decoder, bits: float) -> tuple[Measurement, ...]:
    """Tokens a second that others have measured of a language model on a module.

    Args:
        device: a module; its other power mode counts as well.
        decoder: the language model; its vocabulary may differ.
        bits: of a weight, about.
    """
    modes = {device.key, device.super_mode}
    modes |= {other.key for other in DEVICES.values() if other.super_mode == device.key}
    return tuple(
        m
        for m in MEASUREMENTS
        if m.kind == "decode" and m.device in modes and abs(m.bits - bits) < 1
        if m.decoder and _body(m.decoder) == _body(decoder)
    )


def _body(decoder: Decoder) -> Decoder:
    return replace(decoder, vocabulary=0, tied=False)
