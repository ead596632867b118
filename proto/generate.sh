#!/usr/bin/env bash
# Generates the Python stubs: proto/generate.sh PYTHON OUT
# PYTHON has grpcio-tools and mypy-protobuf as pinned in the dependency group "codegen": an old version
# on purpose, since stubs refuse runtimes older than their generator.
set -euo pipefail
python=$1 out=$2
bin=$(dirname "$python")
mkdir -p "$out"
PATH="$bin:$PATH" "$python" -W ignore -m grpc_tools.protoc -Iproto \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
  proto/pagewire/v1/*.proto
for file in proto/pagewire/v1/*.proto; do
  name=$(basename "$file" .proto)
  grep -q '^service ' "$file" || rm -f "$out/pagewire/v1/${name}"_pb2_grpc.py "$out/pagewire/v1/${name}"_pb2_grpc.pyi
done
