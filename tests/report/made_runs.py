"""Run folders written by hand, with text that would like to be markup."""

import json

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1">',
    "\\boxed{\\frac{1}{2}} $x < y$ & &amp; <!-- ",
    "日本語 🙂 e\u0301 \u202e \u2028 \u0000 𝔸",
]


def record(step, completion, text, verdict="right", **more):
    """A rollout record whose tokens are the characters of its text."""
    count = len(text)
    reward = {"extracted": text[:9], "method": "boxed", "gold": HOSTILE[0], "verdict": verdict, "why": HOSTILE[1]}
    return {
        "step": step, "kept": True, "completion": completion, "prompt": "made/" + HOSTILE[0], "task": "<b>task</b>",
        "source": "made", "images": [], "question": HOSTILE[0] + HOSTILE[2], "response": text,
        "ids": list(range(count)), "finish_reason": "stop", "planning": [[0, 3], [5, 6]],
        "reward": {**reward, "parts": {"accuracy": 1.0}, "total": 1.0}, "advantage": 0.5, "decoded": text,
        "token_spans": [[i, i + 1] for i in range(count)], "grams": [["<i>gram</i>", "deduction", 0, 3]],
        "advantages": [0.6] * 3 + [-0.5] * (count - 3), "engine_logprobs": [-0.1] * count, "old_logprobs": None,
        "entropy": None, **more,
    }  # fmt: skip


def write_run(folder, metrics, steps):
    """A run folder as old ones are, from metrics and from the rollout records of each step."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\ntrain: {steps: 9}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    for step, records in steps.items():
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records)
        (folder / f"rollouts/step_{step:06d}.jsonl").write_text(lines, encoding="utf-8", errors="backslashreplace")
    return folder
