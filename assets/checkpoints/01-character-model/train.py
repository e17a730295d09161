"""The recipe of the character model in this folder: `python assets/checkpoints/01-character-model/train.py`.

An LSTM reads Grimm's tales (all but the nine that seed 0 holds out) for 30 epochs: about eight minutes of one core. It
writes weights.safetensors (half precision) and log.json beside itself; interrupted, it goes on from the last epoch.
With RNN2RAG_SCALE=full a wider one reads TinyStories, on the GPU where there is one, and goes to the cache.
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
from rnn2rag import catalog, machine
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


def main() -> None:
    """Train, print a line an epoch, and write the result."""
    rt = rnn2rag.runtime(device="cpu" if machine.scale() == "embedded" else None, seed=0)
    size = rt.sizes(  # embedded scale, full scale
        held_out=(9, 100),  # tales
        batch_size=(32, 128),
        seq_len=(64, 256),
        d_model=(64, 256),
        hidden_size=(320, 1024),
        epochs=(30, 10),
        lr=(4e-3, 1e-3),
    )
    folder = FOLDER if rt.scale == "embedded" else catalog.cache_dir() / "01-character-model-full"
    folder.mkdir(parents=True, exist_ok=True)
    interrupted = folder / "interrupted.pt"
    training, held_out = split_tales(rt.seed, size.held_out)
    parts = streams(encode(training, alphabet()), size.batch_size).to(rt.device)
    updates = (parts.shape[1] - 1) // size.seq_len
    model = CharacterLSTM(len(alphabet()), size.d_model, size.hidden_size).to(rt.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.lr, weight_decay=0.05)
    total = size.epochs * updates
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, size.lr, total_steps=total, pct_start=0.05)
    log = []
    if interrupted.exists():
        kept = torch.load(interrupted, weights_only=True)
        log = kept.pop("log")
        for name, part in {"model": model, "optimizer": optimizer, "schedule": schedule}.items():
            part.load_state_dict(kept[name])
    for epoch in range(len(log) + 1, size.epochs + 1):
        start, state, bits = time.process_time(), None, 0.0
        model.train()
        for inputs, targets in islice(chunks(parts, size.seq_len), updates):
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
        torch.save({**{name: part.state_dict() for name, part in parts_of_run.items()}, "log": log}, interrupted)
    save_file({name: weight.half() for name, weight in model.state_dict().items()}, folder / "weights.safetensors")
    (folder / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf8")
    interrupted.unlink()


if __name__ == "__main__":
    main()
