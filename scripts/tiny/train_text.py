"""Train the tokenizers and text encoders of the embedded model on captions of the world.

    python scripts/tiny/train_text.py

Two tokenizers are fitted to the captions. Then the CLIP and the T5 encoder learn to name
the shape, the colour, the motion, the background, the size and the speed that a caption speaks of, each
through linear heads that are thrown away. After this the encoders stay frozen, as those of the published
models are.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import time
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import torch
import torch.nn.functional as F
import world
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from training import WORK_FOLDER, append_log, draw_curves, pick_device, warmup_then_cosine
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

ATTRIBUTES = {
    "shape": world.SHAPES,
    "colour": world.COLOURS,
    "motion": world.MOTIONS,
    "background": world.BACKGROUNDS,
    "size": world.SIZES,
    "speed": world.SPEEDS,
}
MAX_SEQUENCE_LENGTH = 32
CLIP_WIDTH = 96
T5_WIDTH = 96


Caption = Callable[[world.SceneSpec, int], str]


def captions_of(seeds: range, caption: Caption) -> tuple[list[str], torch.Tensor]:
    """Captions of the scenes with these seeds and their attributes as indices, int64 (len(seeds), 6)."""
    texts, labels = [], []
    for seed in seeds:
        scene = world.sample_scene(seed)
        texts.append(caption(scene, seed))
        labels.append([names.index(getattr(scene, key)) for key, names in ATTRIBUTES.items()])
    return texts, torch.tensor(labels)


def fit_clip_tokenizer(texts: list[str], folder: Path, vocabulary_size: int = 700) -> CLIPTokenizer:
    """Fit a byte-level BPE of CLIP's kind (lower case, `</w>` ends a word) and save it in `folder`."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=sorted(alphabet),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    # CLIP's vocabulary holds every byte alone and at the end of a word, so nothing is ever unknown.
    pieces = [*sorted(alphabet), *(byte + "</w>" for byte in sorted(alphabet))]
    pieces += [piece for piece in ("".join(merge) for merge in merges) if piece not in set(pieces)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_SEQUENCE_LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def fit_t5_tokenizer(
    texts: list[str], known_texts: list[str], folder: Path, vocabulary_size: int = 160
) -> T5Tokenizer:
    """Fit a sentencepiece unigram model and save it in `folder` as `spiece.model`.

    Every word of `known_texts` becomes one piece; printable ASCII is in the fitted text, so that any other
    word is spelled instead of lost, those of `texts` as those of a prompt.
    """
    words, known_words = (
        sorted({word for text in part for word in re.findall(r"\w+|[,:]", text)})
        for part in (texts, known_texts)
    )
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*words, *string.printable.split()]),
        character_coverage=1.0,
        model_prefix=str(folder / "spiece"),
        vocab_size=vocabulary_size,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        minloglevel=2,
        num_threads=1,
    )
    (folder / "spiece.vocab").unlink()
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "spiece.model").read_bytes())
    known = {piece.piece for piece in model.pieces}
    for word in known_words:
        if "▁" + word not in known:  # "▁" marks the beginning of a word
            model.pieces.add(piece="▁" + word, score=-1.0)
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    config = {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": 0,
        "model_max_length": MAX_SEQUENCE_LENGTH,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return T5Tokenizer.from_pretrained(folder)


def build_encoders(clip: CLIPTokenizer, t5: T5Tokenizer) -> tuple[CLIPTextModel, T5EncoderModel]:
    """New text encoders of one layer, sized for the two tokenizers."""
    clip_config = CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=CLIP_WIDTH,
        intermediate_size=2 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=MAX_SEQUENCE_LENGTH,
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
        pad_token_id=clip.pad_token_id,
    )
    t5_config = T5Config(
        vocab_size=len(t5),
        d_model=T5_WIDTH,
        d_kv=24,
        d_ff=2 * T5_WIDTH,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=t5.pad_token_id,
        eos_token_id=t5.eos_token_id,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return CLIPTextModel(clip_config), T5EncoderModel(t5_config)


def tokenize(tokenizer: CLIPTokenizer | T5Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 (len(texts), MAX_SEQUENCE_LENGTH)."""
    tokens = tokenizer(
        texts, padding="max_length", max_length=MAX_SEQUENCE_LENGTH, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids, tokens.attention_mask


def attribute_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy summed over the attributes; logits (B, sum of class counts), labels (B, attributes)."""
    sizes = [len(names) for names in ATTRIBUTES.values()]
    parts = logits.split(sizes, dim=-1)
    return torch.stack([F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts)]).sum()


def attribute_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of captions of which all attributes are named rightly."""
    parts = logits.split([len(names) for names in ATTRIBUTES.values()], dim=-1)
    right = torch.stack([part.argmax(-1) == labels[:, i] for i, part in enumerate(parts)])
    return float(right.all(0).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=WORK_FOLDER / "text", help="folder to write to")
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="torch device (default: an accelerator, else the CPU)")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    torch.manual_seed(arguments.seed)

    seeds = world.TRAIN_SEEDS[: arguments.captions]
    texts, labels = captions_of(seeds, world.training_caption)
    known_texts, _ = captions_of(seeds, world.caption)
    held_out_texts, held_out_labels = captions_of(world.HELD_OUT_SEEDS[:1000], world.caption)
    clip_tokenizer = fit_clip_tokenizer(texts, arguments.out / "tokenizer")
    t5_tokenizer = fit_t5_tokenizer(texts, known_texts, arguments.out / "tokenizer_2")
    clip, t5 = (encoder.to(device) for encoder in build_encoders(clip_tokenizer, t5_tokenizer))
    classes = sum(len(names) for names in ATTRIBUTES.values())
    clip_head, t5_head = nn.Linear(CLIP_WIDTH, classes).to(device), nn.Linear(T5_WIDTH, classes).to(device)
    optimizer = torch.optim.AdamW(
        [p for module in (clip, t5, clip_head, t5_head) for p in module.parameters()], lr=2e-3
    )
    clip_ids, _ = tokenize(clip_tokenizer, texts)
    t5_ids, t5_mask = tokenize(t5_tokenizer, texts)
    held_out = [*tokenize(clip_tokenizer, held_out_texts)[:1], *tokenize(t5_tokenizer, held_out_texts)]

    def logits(clip_ids: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        pooled = clip(clip_ids.to(device)).pooler_output
        mask = mask.to(device)
        states = t5(ids.to(device), attention_mask=mask).last_hidden_state * mask[..., None]
        return [clip_head(pooled), t5_head(states.sum(1) / mask.sum(1, keepdim=True))]

    log = arguments.out / "log.jsonl"
    log.unlink(missing_ok=True)
    started = time.perf_counter()
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * warmup_then_cosine(step, arguments.steps, 50)
        rows = torch.randint(len(texts), (128,))
        targets = labels[rows].to(device)
        both = logits(clip_ids[rows], t5_ids[rows], t5_mask[rows])
        losses = [attribute_loss(each, targets) for each in both]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        if step % 100 == 99:
            with torch.no_grad():
                scores = [attribute_accuracy(x, held_out_labels.to(device)) for x in logits(*held_out)]
            append_log(
                log,
                {
                    "step": step + 1,
                    "clip_loss": losses[0].item(),
                    "t5_loss": losses[1].item(),
                    "clip_held_out_error": 1 - scores[0],
                    "t5_held_out_error": 1 - scores[1],
                    "seconds": time.perf_counter() - started,
                },
            )
            print(f"step {step + 1}: held-out captions understood, CLIP {scores[0]:.3f}, T5 {scores[1]:.3f}")
    clip.save_pretrained(arguments.out / "text_encoder")
    t5.save_pretrained(arguments.out / "text_encoder_2")
    draw_curves(log, arguments.out / "curves.png", "Text encoders of the embedded model")


if __name__ == "__main__":
    main()
