"""The public names: usable by someone with another trainer, and no torch until one is used."""

import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer

import mmhicra
from mmhicra.core.resources import asset_path


def test_hicra_in_five_lines():
    tokenizer = Tokenizer.from_file(str(asset_path("tiny_vlm") / "tokenizer.json"))
    ids = tokenizer.encode("3 + 4 = 7. Wait, that's not right: 8").ids
    advantages = torch.full((len(ids),), -0.5)

    library = mmhicra.GramLibrary.load("published_249")
    mask = mmhicra.planning_mask(ids, tokenizer, library)
    amplified = mmhicra.hicra_advantages(advantages, mask, alpha=0.2)

    marked = [tokenizer.decode([token]).strip() for token, planning in zip(ids, mask, strict=True) if planning]
    assert "".join(marked).replace(" ", "") == "Wait,that'snotright"
    assert amplified[mask].tolist() == [torch.tensor(-0.4).item()] * int(mask.sum())
    assert amplified[~mask].equal(advantages[~mask])
    assert mmhicra.semantic_entropy({"wait": 2, "let me verify": 1, "so": 1}) == 1.5


def test_every_public_name_is_there_and_others_are_not():
    for name in mmhicra.__all__:
        assert getattr(mmhicra, name).__doc__
    assert not hasattr(mmhicra, "trainer_of_everything")


@pytest.mark.slow
def test_no_trainer_engine_or_model_is_imported():
    names = ", ".join(sorted(set(mmhicra.__all__) - {"train", "evaluate", "load_config"}))
    code = (
        "import sys, mmhicra; assert 'torch' not in sys.modules\n"
        f"from mmhicra import {names}\n"
        "loaded = {name.split('.')[1] for name in sys.modules if name.startswith('mmhicra.')}\n"
        "assert loaded <= {'hicra', 'core'}, loaded\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys\nfrom mmhicra import evaluate, load_config, train\n"
        "assert load_config('tiny', ['train.steps=7']).train.steps == 7\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
