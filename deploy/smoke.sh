#!/usr/bin/env bash
# What the images do, without docker: installs server and translator apart, as the Dockerfile does, starts
# them as compose.yaml does, and asks them something.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
pids=()
stop() {
  status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  rm -rf "$work"
  exit "$status"
}
trap stop EXIT

wait_until_healthy() {
  for _ in $(seq 300); do
    if "$1" health --target "$2" 2>/dev/null; then return; fi
    kill -0 "$3" || return 1
    sleep 1
  done
  return 1
}

deploy/install.sh "$work/server" server,otel
deploy/install.sh "$work/translator" translator,otel
if "$work/translator/bin/python" -c 'import torch' 2>/dev/null; then
  echo "the translator's installation has torch" >&2
  exit 1
fi

cd "$work"
"$work/server/bin/pagewire" serve --port 50151 --admin-port 50152 --metrics-port 50153 &
pids+=($!)
wait_until_healthy "$work/server/bin/pagewire" 127.0.0.1:50151 "${pids[0]}"
"$work/translator/bin/pagewire" translate --grpc-target 127.0.0.1:50151 --stats-target 127.0.0.1:50152 --port 8100 &
pids+=($!)
wait_until_healthy "$work/translator/bin/pagewire" http://127.0.0.1:8100 "${pids[1]}"

answer=$("$work/translator/bin/pagewire" chat --grpc-target 127.0.0.1:50151 --temperature 0 "What is the capital of France?")
echo "$answer"
[[ $answer == *Paris* ]]
"$work/translator/bin/python" - <<'PYTHON'
import json, urllib.request

body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
body["model"] = "smollm2-135m-instruct"
request = urllib.request.Request(
    "http://127.0.0.1:8100/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
)
with urllib.request.urlopen(request, timeout=120) as response:
    answer = json.load(response)["choices"][0]["message"]["content"]
print(answer)
assert "Paris" in answer
with urllib.request.urlopen("http://127.0.0.1:8100/", timeout=10) as response:
    assert "<title>Pagewire</title>" in response.read().decode()
with urllib.request.urlopen("http://127.0.0.1:8100/console/stats", timeout=10) as response:
    assert json.load(response)["available"]
with urllib.request.urlopen("http://127.0.0.1:50153/metrics", timeout=10) as response:
    assert "vllm:generation_tokens_total" in response.read().decode()
PYTHON
