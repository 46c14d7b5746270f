"""Measure the bytes of state that decoding keeps per sentence.

Takes the arguments of fairseq-generate, decodes the batch with the longest sources, and after
every decoder step adds up the distinct tensor storages that are reachable from fairseq's
``incremental_state`` and ``encoder_out``. Model parameters do not count.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from common.measurements import Spy


def measure(arguments: list[str]) -> dict[str, int | float]:
    """Decode one batch as fairseq-generate would with `arguments`; sizes of its state."""
    parser = options.get_generation_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
    utils.import_user_module(cfg.common)
    utils.set_torch_seed(cfg.common.seed)

    task = tasks.setup_task(cfg.task)
    models, saved = checkpoint_utils.load_model_ensemble([cfg.common_eval.path], task=task)
    use_cuda = torch.cuda.is_available() and not cfg.common.cpu
    for model in models:
        if cfg.common.fp16:
            model.half()
        if use_cuda:
            model.cuda()
        model.prepare_for_inference_(cfg)
    task.load_dataset(cfg.dataset.gen_subset, task_cfg=saved.task)
    batches = task.get_batch_iterator(
        dataset=task.dataset(cfg.dataset.gen_subset),
        max_tokens=cfg.dataset.max_tokens,
        max_sentences=cfg.dataset.batch_size,
        max_positions=utils.resolve_max_positions(
            task.max_positions(), *[model.max_positions() for model in models]
        ),
    ).next_epoch_itr(shuffle=False)
    longest = max(batches, key=lambda batch: batch["net_input"]["src_tokens"].size(1))

    if use_cuda:
        longest = utils.move_to_cuda(longest)
    size = cfg.generation.prefix_size
    prefix = longest["target"][:, :size] if size > 0 else None

    generator = task.build_generator(models, cfg.generation)
    decoder = generator.model.single_model.decoder
    decoder.forward = spy = Spy(decoder.forward, generator.model)
    with torch.no_grad():
        task.inference_step(generator, models, longest, prefix_tokens=prefix)

    sentences, length = longest["net_input"]["src_tokens"].shape
    return {
        "state_bytes_per_sentence": spy.peak / sentences,
        "sentences": sentences,
        "source_length": length,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Other arguments are those of fairseq-generate."
    )
    parser.add_argument("output", type=Path, help="JSON file to write")
    # fairseq looks for --user-dir in sys.argv, where it would not see it after a "--".
    args, arguments = parser.parse_known_args()
    result = measure(arguments)
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
