#!/usr/bin/env bash
# What a machine with a CUDA GPU measures and checks: `benchmarks/gpu.sh [FOLDER]` (docs/explanation/performance.md).
# The checks take two minutes; each of the six measurements is stopped after four.
# 1. The tests that need a GPU.
# 2. A short run of the tiny model, the same again, and one that is killed after three steps and resumed: what differs?
# 3. One update of a 7B-shaped and a 3B-shaped model beside TRL's, in every regime (needs the extra `bench`).
set -uo pipefail
out=$(realpath -m "${1:-runs/gpu}")
mkdir -p "$out"
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=0
measure() { # NAME ARGUMENTS...: a benchmark, its JSON in the folder; one that does not fit is said and passed over
  timeout 240 python3 -m benchmarks train --against trl --precision bf16 --checkpointing --update-only --json "${@:2}" \
    > "$out/$1.json" 2> "$out/$1.log" || { echo "$1: exit status $?: $(tail -1 "$out/$1.log")"; failed=1; }
}
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
python3 -m pytest -q -p no:cacheprovider tests/train/test_attention.py || failed=1
if python3 -c "import bitsandbytes" 2> /dev/null; then # the extra `qlora`
  python3 -m pytest -q -p no:cacheprovider tests/vlm/test_quantise.py || failed=1
  timeout 240 python3 -m benchmarks qlora --json > "$out/qlora.json" 2> "$out/qlora.log" || { echo "qlora: $(tail -1 "$out/qlora.log")"; failed=1; }
fi
run() { python3 -m mmhicra train --config tiny --set run_folder="$out/$1" --set train.steps=6 --set eval.problems=24 \
  --set log.checkpoint_every=2 --set log.keep_checkpoints=9 "${@:2}" > "$out/$1.log" 2>&1; }
run whole || failed=1
run again || failed=1
run killed & job=$!
until [ "$(cat "$out/killed/metrics.jsonl" 2>/dev/null | wc -l)" -ge 4 ] || ! kill -0 $job 2>/dev/null; do sleep 0.05; done
pkill -KILL -P $job; wait $job 2>/dev/null
run killed --resume || failed=1
python3 - "$out" <<'PY' || failed=1
import hashlib, json, pathlib, sys
out = pathlib.Path(sys.argv[1])
TIMED = ("time/", "memory/", "speed/")
def read(name):
    lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]
    weights = {p.name: hashlib.sha256(p.read_bytes()).hexdigest()
               for p in sorted((out / name / "checkpoints/step_000006").glob("*.safetensors"))}
    return metrics, weights
whole = read("whole")
for name in ("again", "killed"):
    metrics, weights = read(name)
    differing = sorted({k for a, b in zip(whole[0], metrics, strict=True) for k in a | b if a.get(k) != b.get(k)})
    print(f"whole and {name}: {len(metrics)} lines of metrics, differing: {differing or 'nothing'};"
          f" weights {'equal' if weights == whole[1] else 'differ'} ({len(weights)} files)")
PY
for model in 7b 3b; do
  for regime in C B A; do measure "${model}_$regime" --model $model --regime $regime --pairs 3; done
done
python3 - "$out" <<'PY'
import json, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("?b_?.json")):
    text = path.read_text()
    print(path.stem, text[text.index("{"):][:1500] if "{" in text else "nothing")
PY
exit $failed
