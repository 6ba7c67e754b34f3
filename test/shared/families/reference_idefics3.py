# SPDX-License-Identifier: Apache-2.0
"""Idefics3 from transformers' public functions."""

from types import SimpleNamespace

from families.reference_smolvlm import BORDER, WHOLE, SmolVLM
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor


class Idefics3(SmolVLM):
    processor_class = Idefics3ImageProcessorPil

    def expanded(self, rows, columns):
        settings = SimpleNamespace(
            fake_image_token=BORDER,
            global_image_tag=WHOLE,
            image_token=self.loaded.family.image_token,
            image_seq_len=self.blocks,
        )
        made = {"rows": [[rows]], "cols": [[columns]]}
        return Idefics3Processor.replace_image_token(settings, made, 0)
