# SPDX-License-Identifier: Apache-2.0
"""InternVL from transformers' public functions."""

import torch
from family_reference import Full, Reference
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil


class InternVL(Reference):
    def inputs(self, image):
        height, width = self.model.config.vision_config.image_size
        processor = GotOcr2ImageProcessorPil(
            size={"height": height, "width": width},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        made = processor(images=image, crop_to_patches=True, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}

    def ids(self, inputs, question):
        patches = self.model.model.vision_tower.embeddings.patch_embeddings.num_patches
        count = len(inputs["pixel_values"]) * patches // 4
        token = self.loaded.family.image_token
        expanded = f"<img>{token * count}</img>"
        return self.tokenizer(self.text(question).replace(token, expanded)).input_ids

    def features(self, inputs):
        model = self.model.model
        states = model.vision_tower(inputs["pixel_values"]).last_hidden_state[:, 1:]
        side = int(states.shape[1] ** 0.5)
        shuffled = model.pixel_shuffle(states.unflatten(1, (side, side)), scale_factor=0.5)
        return shuffled.flatten(0, 2)

    def full(self, inputs, question):
        ids = torch.tensor(self.ids(inputs, question))
        seen = self.model.model.get_image_features(inputs["pixel_values"], return_dict=True)
        is_patch = ids == self.image_token_id
        rows = self.model.get_input_embeddings()(ids).clone()
        rows[is_patch] = seen.pooler_output.flatten(0, 1)
        return Full(rows, torch.arange(len(ids)), is_patch, torch.full_like(ids, -1))
