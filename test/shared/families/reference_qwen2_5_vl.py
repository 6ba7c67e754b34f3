# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL from transformers' public functions."""

import torch
from family_reference import Full, Reference
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_window_index


class Qwen25VL(Reference):
    def inputs(self, image):
        processor = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056)
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
        vision = self.model.config.vision_config
        windows, _ = get_vision_window_index(
            inputs["image_grid_thw"],
            vision.spatial_merge_size,
            vision.window_size,
            vision.patch_size,
        )
        return states.reshape(len(states) // 4, -1)[windows.argsort()]

    def projected(self, inputs):
        return self._seen(inputs).pooler_output[0]

    def full(self, inputs, question):
        ids = torch.tensor([self.ids(inputs, question)])
        is_patch = ids[0] == self.image_token_id
        rows = self.model.get_input_embeddings()(ids)[0].clone()
        rows[is_patch] = self.projected(inputs)
        positions, _ = self.model.model.get_rope_index(
            ids, image_grid_thw=inputs["image_grid_thw"], **self.extra(ids)
        )
        return Full(rows, positions[:, 0], is_patch, torch.full_like(ids[0], -1))
