"""A client to be killed: `python tests/leaving_client.py TARGET COUNT` holds so many streams open."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc.aio

from pagewire.v1 import inference_pb2, inference_pb2_grpc


async def main(target: str, count: int) -> None:
    stopping = inference_pb2.Stopping(max_tokens=4000, ignore_eos=True)
    spec = inference_pb2.GenerationSpec(text="hi", stopping=stopping)
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        calls = [
            stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec), wait_for_ready=True)
            for _ in range(count)
        ]
        for call in calls:
            await call.read()
        sys.stdout.write("open\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
