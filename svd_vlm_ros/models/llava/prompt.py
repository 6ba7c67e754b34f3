# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5's prompt: `<s>USER: <image>\\n{question} ASSISTANT:`."""

from __future__ import annotations

from svd_vlm_ros.models.prompt import Template

IMAGE_TOKEN = "<image>"
TEMPLATE = Template(IMAGE_TOKEN, "{system}USER: {image}\n{question} ASSISTANT:")
