#!/usr/bin/env bash
# What a machine with a CUDA GPU measures and checks: `benchmarks/gpu.sh [FOLDER] [PART...]` (docs/explanation/performance.md).
#   limit   one update of a 7B-shaped model: every lever in turn, then regimes A (1 and 8 groups a row), B and C with what
#           fits the card; log-prob kernels. Under eight minutes.
#   checks  the tests that need a GPU, and a short run of the tiny model: the same again, and killed and resumed.
#   trl     one update of a 7B- and a 3B-shaped model beside TRL's, in every regime; text beside TRL's prefix trie.
#   qlora   a 4-bit base under adapters.
# Without a part it does all of them, in this order. Each measurement is stopped after its time.
set -uo pipefail
out=$(realpath -m "${1:-runs/gpu}")
shift || true
parts="${*:-limit checks trl qlora}"
mkdir -p "$out"
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=0

bench() { # NAME SECONDS ARGUMENTS...: a benchmark, its JSON in the folder; one that does not fit is said and passed over
  timeout "$2" python3 -m benchmarks "${@:3}" --json > "$out/$1.json" 2> "$out/$1.log" ||
    { echo "$1: exit status $?: $(tail -1 "$out/$1.log")"; failed=1; }
}

limit() {
  bench limit_7b 400 ablation --model 7b
  bench logprob_chunks 40 logprob --hidden 3584 --vocabulary 152064 --tokens 4096 --precision bf16
}

GPU_TESTS="tests/train/test_attention.py tests/train/test_logprob.py tests/train/test_decoder_kernels.py
  tests/train/test_optimizer.py tests/train/test_activation_checkpointing.py"

run() { python3 -m mmhicra train --config tiny --set run_folder="$out/$1" --set train.steps=6 --set eval.problems=24 \
  --set log.checkpoint_every=2 --set log.keep_checkpoints=9 "${@:2}" > "$out/$1.log" 2>&1; }

checks() {
  python3 -m pytest -q -p no:cacheprovider $GPU_TESTS || failed=1
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
               for p in sorted((out / name / "checkpoints/step_000006").rglob("*.safetensors"))}
    return metrics, weights
whole = read("whole")
for name in ("again", "killed"):
    metrics, weights = read(name)
    differing = sorted({k for a, b in zip(whole[0], metrics, strict=True) for k in a | b if a.get(k) != b.get(k)})
    print(f"whole and {name}: {len(metrics)} lines of metrics, differing: {differing or 'nothing'};"
          f" weights {'equal' if weights == whole[1] else 'differ'} ({len(weights)} files)")
PY
}

trl() {
  for model in 7b 3b; do
    for regime in B A C; do
      bench ${model}_$regime 240 train --against trl --precision bf16 --checkpointing full --update-only --pairs 3 \
        --model $model --regime $regime
    done
  done
  bench 7b_text 240 train --against trl-async --precision bf16 --checkpointing full --update-only --pairs 3 --model 7b --regime B
}

qlora() {
  python3 -m pytest -q -p no:cacheprovider tests/vlm/test_quantise.py || failed=1
  bench qlora 240 qlora
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -c "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
for part in $parts; do "$part"; done
python3 - "$out" <<'PY'
import json, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    text = path.read_text()
    print(path.stem, text[text.index("{"):][:6000] if "{" in text else "nothing")
PY
exit $failed
