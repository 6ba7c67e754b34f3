# SPDX-License-Identifier: Apache-2.0
"""llama.cpp as a worker of `peers.py`: the language model alone, fed with embeddings.

F16 is written from the weights, Q8_0 and Q4_0 are made of it by llama.cpp's own quantizer, which
makes the output head of Q4_0 a Q6_K. The cache is its default, float16. Its vision tower is another
program's (mtmd) and is left out.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from peers_common import CONTEXT, EPSILON, FEED_FORWARD, HEADS, HIDDEN, THETA, Weights, main

NAMES = {  # of a layer, in files of transformers and of llama.cpp
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TYPES = {"Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}
HEAD = {"F16": "F16", "Q8_0": "Q8_0", "Q4_0": "Q6_K"}
ROOM = 1024  # rows that the cache has room for


def convert(options: dict[str, Any]) -> None:
    if options["precision"] == "F16":
        write_f16(Path(options["weights"]), options["path"])
        return
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, TYPES[options["precision"]])
    settings.nthread = options["threads"]
    paths = (options[name].encode() for name in ("f16", "path"))
    if llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings)):
        raise SystemExit("llama.cpp could not quantize")


def write_f16(folder: Path, path: str) -> None:
    from gguf import GGUFWriter, LlamaFileType

    weights = Weights(folder)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(weights.layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(len(weights["lm_head.weight"]))
    writer.add_tokenizer_model("no_vocab")  # it is never asked for text
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_tensor("token_embd.weight", weights["embed_tokens.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    writer.add_tensor("output_norm.weight", weights["norm.weight"].astype(np.float32))
    for layer in range(weights.layers):
        for theirs, ours in NAMES.items():
            weight = weights[f"layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                # It turns neighbours, transformers the two halves of a head.
                halves = weight.reshape(HEADS, 2, -1, HIDDEN)
                weight = halves.swapaxes(1, 2).reshape(weight.shape)
            if weight.ndim == 1:
                weight = weight.astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    def __init__(self, options: dict[str, Any]) -> None:
        import llama_cpp

        self._library = llama_cpp
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        # Mapped pages of the file could be taken away while the worker waits for its turn.
        settings.use_mmap = False
        self._model = llama_cpp.llama_model_load_from_file(options["decoder"].encode(), settings)
        room = llama_cpp.llama_context_default_params()
        room.n_ctx = room.n_batch = ROOM
        room.n_threads = room.n_threads_batch = options["threads"]
        self._context = llama_cpp.llama_init_from_model(self._model, room)
        self._memory = llama_cpp.llama_get_memory(self._context)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._words = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(ROOM, HIDDEN, 1)
        self._held = 0
        features = llama_cpp.llama_print_system_info().decode()
        self.about = {
            "version": llama_cpp.__version__,
            "head": HEAD[options["precision"]],
            "built for": " ".join(
                part.partition("=")[0].strip()
                for part in features.partition(":")[2].replace("CPU :", "|").split("|")
                if part.strip().endswith("= 1")
            ),
        }

    def read(self, rows: np.ndarray) -> np.ndarray:
        self._library.llama_memory_clear(self._memory, False)
        self._held = 0
        return self.token(rows)

    def token(self, row: np.ndarray) -> np.ndarray:
        count, batch = len(row), self._batch
        batch.n_tokens = count
        ctypes.memmove(batch.embd, np.ascontiguousarray(row).ctypes.data, row.nbytes)
        for index in range(count):
            batch.pos[index] = self._held + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == count - 1
        if self._library.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp could not decode")
        self._held += count
        logits = self._library.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, (self._words,)).copy()

    def tower(self, pixels: np.ndarray) -> None:
        return None


if __name__ == "__main__":
    main(convert, LlamaCpp)
