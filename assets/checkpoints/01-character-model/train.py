"""The recipe of the character model in this folder: `python assets/checkpoints/01-character-model/train.py`.

An LSTM reads Grimm's tales (all but the nine that seed 0 holds out) for 30 epochs: about eight minutes of one core. It
writes weights.safetensors (half precision) and log.json beside itself; interrupted, it goes on from the last epoch.
"""

import json
import math
import time
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import rnn2rag
from rnn2rag.built.recurrent_networks import (
    CharacterLSTM,
    alphabet,
    bits_per_character,
    chunks,
    encode,
    split_tales,
    streams,
)

FOLDER = Path(__file__).parent
EPOCHS, BATCH_SIZE, SEQ_LEN, LR = 30, 32, 64, 4e-3
STATE = FOLDER / "interrupted.pt"


def main() -> None:
    """Train, print a line an epoch, and write the result."""
    rt = rnn2rag.runtime(device="cpu", seed=0)
    training, held_out = split_tales(rt.seed)
    parts = streams(encode(training, alphabet()), BATCH_SIZE)
    updates = (parts.shape[1] - 1) // SEQ_LEN
    model = CharacterLSTM(len(alphabet()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=EPOCHS * updates, pct_start=0.05)
    log = []
    if STATE.exists():
        kept = torch.load(STATE, weights_only=True)
        log = kept.pop("log")
        for name, part in {"model": model, "optimizer": optimizer, "schedule": schedule}.items():
            part.load_state_dict(kept[name])
    for epoch in range(len(log) + 1, EPOCHS + 1):
        start, state, bits = time.process_time(), None, 0.0
        model.train()
        for inputs, targets in islice(chunks(parts, SEQ_LEN), updates):
            logits, state = model(inputs, state)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            state = [part.detach() for part in state]
            bits += loss.item() / math.log(2) / updates
        log.append(
            {
                "epoch": epoch,
                "training_bits": round(bits, 4),
                "held_out_bits": round(bits_per_character(model.eval(), held_out), 4),
                "cpu_seconds": round(time.process_time() - start, 1),
            }
        )
        print(log[-1], flush=True)
        parts_of_run = {"model": model, "optimizer": optimizer, "schedule": schedule}
        torch.save({**{name: part.state_dict() for name, part in parts_of_run.items()}, "log": log}, STATE)
    save_file({name: weight.half() for name, weight in model.state_dict().items()}, FOLDER / "weights.safetensors")
    (FOLDER / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf8")
    STATE.unlink()


if __name__ == "__main__":
    main()
