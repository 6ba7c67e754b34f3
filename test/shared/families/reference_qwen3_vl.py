# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL from transformers' public functions."""

from typing import ClassVar

import torch
from family_reference import Full, Reference
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class Qwen3VL(Reference):
    settings: ClassVar = {
        "patch_size": 16,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    }

    def inputs(self, image):
        processor = Qwen2VLImageProcessorPil(**self.settings)
        return dict(processor(images=image, input_data_format="channels_last", return_tensors="pt"))

    def ids(self, inputs, question):
        count = int(inputs["image_grid_thw"].prod()) // 4
        token = self.loaded.family.image_token
        return self.tokenizer(self.text(question).replace(token, token * count)).input_ids

    def extra(self, ids):
        return {"mm_token_type_ids": (ids == self.image_token_id).int()}

    def _seen(self, inputs):
        return self.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )

    def features(self, inputs):
        states = self._seen(inputs).last_hidden_state
        return states.reshape(len(states) // 4, -1)

    def full(self, inputs, question):
        ids = torch.tensor([self.ids(inputs, question)])
        seen = self._seen(inputs)
        is_patch = ids[0] == self.image_token_id
        rows = self.model.get_input_embeddings()(ids)[0].clone()
        rows[is_patch] = seen.pooler_output[0]
        positions, _ = self.model.model.get_rope_index(
            ids, image_grid_thw=inputs["image_grid_thw"], **self.extra(ids)
        )
        groups = torch.full_like(ids[0], -1)
        return Full(rows, positions[:, 0], is_patch, groups, self.planes(seen))

    def planes(self, seen):
        """What DeepStack adds to the visual tokens, [p, N, hidden]."""
        return torch.stack([torch.cat(list(plane)) for plane in seen.deepstack_features])

    def language(self, rows, positions, mask, visual, planes):
        return self.model.model.language_model(
            inputs_embeds=rows[None],
            position_ids=positions[:, None],
            attention_mask=mask[None],
            visual_pos_masks=visual[None],
            deepstack_visual_embeds=list(planes),
        ).last_hidden_state[0]
