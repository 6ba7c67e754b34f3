# SPDX-License-Identifier: Apache-2.0
"""An exported model, run by onnxruntime without torch and without transformers."""
