"""LLaVA-NeXT from transformers' public functions."""

import torch
from family_reference import Full, Reference
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)


class LlavaNext(Reference):
    def inputs(self, image):
        config = self.model.config
        side = config.vision_config.image_size
        processor = LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=[list(shape) for shape in config.image_grid_pinpoints],
        )
        return dict(processor(images=image, input_data_format="channels_last", return_tensors="pt"))

    def pack(self, rows, inputs, newline=None):
        """Rows [tiles, n, d] by the model's own function; without a newline there is none."""
        strategy = self.model.config.vision_feature_select_strategy
        packed, _ = self.model.model.pack_image_features(
            [rows], inputs["image_sizes"], strategy, image_newline=newline
        )
        return packed[0]

    def tower(self, inputs):
        pixels = inputs["pixel_values"][0]
        seen = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return seen.hidden_states[-2][:, 1:]

    def features(self, inputs):
        return self.pack(self.tower(inputs), inputs)

    def projected(self, inputs):
        return self.pack(self.model.model.multi_modal_projector(self.tower(inputs)), inputs)

    def ids(self, inputs, question):
        tiles = len(inputs["pixel_values"][0])
        config = self.model.config.vision_config
        patches = (config.image_size // config.patch_size) ** 2
        count = len(self.pack(torch.zeros(tiles, patches, 1), inputs, torch.zeros(1)))
        token = self.loaded.family.image_token
        return self.tokenizer(self.text(question).replace(token, token * count)).input_ids

    def full(self, inputs, question):
        ids = torch.tensor(self.ids(inputs, question))
        features = self.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"], return_dict=True
        )
        is_image = ids == self.image_token_id
        rows = self.model.get_input_embeddings()(ids).clone()
        rows[is_image] = features.pooler_output[0]
        # Of zeros among which the newlines are -1; a newline and the patches ahead of it are a row.
        tower = self.tower(inputs)
        marks = self.pack(torch.zeros(*tower.shape[:2], 1), inputs, torch.tensor([-1.0]))[:, 0]
        newline = marks < 0
        number = newline.cumsum(0) - newline.long()
        if newline[tower.shape[1] :].all():  # rows without columns
            number.fill_(-1)
        number[: tower.shape[1]] = 1 + int(number.max())
        is_patch, groups = is_image.clone(), torch.full_like(ids, -1)
        is_patch[is_image], groups[is_image] = ~newline, number
        return Full(rows, torch.arange(len(ids)), is_patch, groups)
