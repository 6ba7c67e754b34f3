"""LLaVA-OneVision from transformers' public functions."""

from families.reference_llava_next import LlavaNext
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)


class LlavaOnevision(LlavaNext):
    def inputs(self, image):
        config = self.model.config
        side = config.vision_config.image_size
        processor = LlavaOnevisionImageProcessorPil(
            size={"height": side, "width": side},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            image_grid_pinpoints=[list(shape) for shape in config.image_grid_pinpoints],
        )
        return dict(processor(images=image, input_data_format="channels_last", return_tensors="pt"))

    def pack(self, rows, inputs, newline=None):
        packed, _ = self.model.model.pack_image_features(
            [rows],
            inputs["image_sizes"],
            image_newline=newline,
            vision_aspect_ratio=self.model.config.vision_aspect_ratio,
        )
        return packed[0]

    def tower(self, inputs):
        pixels = inputs["pixel_values"][0]
        seen = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return seen.hidden_states[-1]
