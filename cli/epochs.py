"""An epoch of a training in words."""


def epoch_words(line: dict[str, float]) -> str:
    """An epoch's line of the log in words."""
    return (
        f"epoch {line['epoch']:.0f}: loss {line['train_loss']:.4f}, validation {line['validation_loss']:.4f} "
        f"(best {line['best_validation_loss']:.4f}), rate {line['learning_rate']:.1e}, "
        f"{line['epoch_seconds']:.1f} s, {line['pairs_per_second']:.0f} pairs/s"
    )
