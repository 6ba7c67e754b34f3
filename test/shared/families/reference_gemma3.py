# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 from transformers' public functions."""

import torch
from family_reference import Full, Reference
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil


class Gemma3(Reference):
    images_differ = False

    def inputs(self, image):
        side = self.model.config.vision_config.image_size
        processor = Gemma3ImageProcessorPil(
            size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        made = processor(images=image, do_pan_and_scan=False, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}

    def ids(self, inputs, question):
        tokens = self.loaded.family.image_token * self.model.config.mm_tokens_per_image
        expanded = f"\n\n<start_of_image>{tokens}<end_of_image>\n\n"
        text = self.text(question).replace("<start_of_image>", expanded)
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def extra(self, ids):
        return {"token_type_ids": (ids == self.image_token_id).int()}

    def features(self, inputs):
        model = self.model.model
        states = model.vision_tower(inputs["pixel_values"]).last_hidden_state
        side, of_tokens = int(states.shape[1] ** 0.5), model.multi_modal_projector.tokens_per_side
        blocks = states.view(of_tokens, side // of_tokens, of_tokens, side // of_tokens, -1)
        return blocks.mean(dim=(1, 3)).flatten(0, 1)

    def full(self, inputs, question):
        ids = torch.tensor(self.ids(inputs, question))
        seen = self.model.model.get_image_features(inputs["pixel_values"], return_dict=True)
        is_patch = ids == self.image_token_id
        rows = self.model.get_input_embeddings()(ids).clone()
        rows[is_patch] = seen.pooler_output[0]
        return Full(rows, torch.arange(len(ids)), is_patch, torch.full_like(ids, -1))

    def language(self, rows, positions, mask, visual, planes):
        places = torch.arange(len(rows))
        sees = (places[:, None] >= places) | (visual[:, None] & visual)
        near = positions[:, None] - positions < self.model.config.text_config.sliding_window
        kinds = {"full_attention": sees, "sliding_attention": sees & near}
        zero = torch.zeros(())
        masks = {kind: torch.where(of, zero, -torch.inf)[None, None] for kind, of in kinds.items()}
        return self.model.model.language_model(
            inputs_embeds=rows[None], position_ids=positions[None], attention_mask=masks
        ).last_hidden_state[0]
