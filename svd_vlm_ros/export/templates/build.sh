#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds TensorRT engines of @MODEL@ (@PRECISION@, activations in @ACTIVATIONS@).
# Written by `svd-vlm export tensorrt` for TensorRT @VERSION@. Run it on the module itself: an engine fits one GPU and one
# version of TensorRT. No Jetson has run it yet; see README.md.
#
#     TRTEXEC=/path/to/trtexec LEVEL=3 ./build.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TRTEXEC=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
WORKSPACE=${WORKSPACE:-@WORKSPACE@} # MiB
LEVEL=${LEVEL:-3}                   # 0 builds fastest, 5 searches longest
LAYERS=@LAYERS@

if [[ ! -x "$TRTEXEC" ]]; then
  echo "There is no trtexec at $TRTEXEC: set TRTEXEC to its path." >&2
  exit 1
fi
# It prints its version, such as [TensorRT v100300], in its first line.
found=$("$TRTEXEC" --help 2>&1 | sed -n 's/.*\[TensorRT v\([0-9]*\)\].*/\1/p' | head -n 1 || true)
if [[ -n "$found" && $((found / 10000)) -ne @VERSION@ ]]; then
  echo "This script is for TensorRT @VERSION@, trtexec says v$found:" \
    "svd-vlm export tensorrt DIR --tensorrt 10 or 11" >&2
  exit 1
fi

# Shapes of the cache with $1 tokens in it, of every layer.
past() {
  local layer list=""
  for ((layer = 0; layer < LAYERS; layer++)); do
    list+=",past_key.$layer:1x@KV_HEADS@x$1x@HEAD_DIM@,past_value.$layer:1x@KV_HEADS@x$1x@HEAD_DIM@"
  done
  echo "$list"
}

# $1: the graph; the rest: its profiles.
build() {
  local name=$1
  shift
  echo "=== $name"
  "$TRTEXEC" "--onnx=../$name.onnx" "--saveEngine=$name.engine.partial" \
    "--memPoolSize=workspace:$WORKSPACE" "--builderOptimizationLevel=$LEVEL" \
    --timingCacheFile=timing.cache --skipInference@OPTIONS@ "$@"
  mv "$name.engine.partial" "$name.engine"
}

@BUILDS@
echo "The engines are in $PWD."
