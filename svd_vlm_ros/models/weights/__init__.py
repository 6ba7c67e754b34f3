# SPDX-License-Identifier: Apache-2.0
"""What weights are made of: precisions, quantization, layouts for the CPU and their kernels."""
