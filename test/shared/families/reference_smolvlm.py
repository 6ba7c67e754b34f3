# SPDX-License-Identifier: Apache-2.0
"""SmolVLM2 from transformers' public functions."""

from typing import ClassVar

import torch
from family_reference import Full, Reference
from PIL import Image
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

BORDER, WHOLE = "<fake_token_around_image>", "<global-img>"


class SmolVLM(Reference):
    processor_class = SmolVLMImageProcessorPil
    sizes: ClassVar = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}
    blocks = 4  # visual tokens of a tile

    def _made(self, image):
        processor = self.processor_class(**self.sizes)
        return processor(Image.fromarray(image), return_row_col_info=True, return_tensors="pt")

    def inputs(self, image):
        made = self._made(image)
        self.cut = made["rows"][0][0], made["cols"][0][0]  # generate takes none of them
        return {name: made[name] for name in ("pixel_values", "pixel_attention_mask")}

    def ids(self, inputs, question):
        token = self.loaded.family.image_token
        text = self.text(question).replace(token, self.expanded(*self.cut))
        # As `ProcessorMixin.apply_chat_template` does, which then tokenises.
        twice = text.startswith(self.tokenizer.bos_token)
        return self.tokenizer(text, add_special_tokens=not twice).input_ids

    def expanded(self, rows, columns):
        token = self.loaded.family.image_token
        return get_image_prompt_string(rows, columns, self.blocks, BORDER, token, WHOLE)

    def features(self, inputs):
        states = self.model.model.get_image_features(**inputs).last_hidden_state
        connector = self.model.model.connector
        return connector.pixel_shuffle(states, connector.scale_factor).flatten(0, 1)

    def full(self, inputs, question):
        ids = torch.tensor(self.ids(inputs, question))
        is_patch = ids == self.image_token_id
        rows = self.model.get_input_embeddings()(ids).clone()
        rows[is_patch] = torch.cat(
            list(self.model.model.get_image_features(**inputs).pooler_output)
        )
        return Full(rows, torch.arange(len(ids)), is_patch, self._groups(ids, is_patch))

    def _groups(self, ids, is_patch):
        """Which tile a token belongs to: from its border to its last visual token."""
        border = self.tokenizer.convert_tokens_to_ids(BORDER)
        groups = torch.full_like(ids, -1)
        starts = (ids == border).nonzero().flatten().tolist()[:-1]  # the last one closes
        for tile, start in enumerate(starts):
            visual = is_patch.nonzero().flatten()
            groups[start : int(visual[self.blocks * (tile + 1) - 1]) + 1] = tile
        assert len(starts) * self.blocks == int(is_patch.sum())
        return groups
