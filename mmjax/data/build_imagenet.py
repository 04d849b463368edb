"""Prepares ImageNet for TFDS from the original tars; everything else reads it without TensorFlow.

pip install -e '.[tfds-build]'
python -m mmjax.data.build_imagenet --tars=DIR --output=DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmjax.errors import UserError

TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def build(tars: str | Path, output: str | Path) -> dict[str, int]:
    """Runs TFDS's own builder of imagenet2012 with file_format="array_record".

    Args:
      tars: the folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or one of them: the
        other split is then left out.
      output: the data_dir, in which imagenet2012/VERSION appears when all of it is written.

    Returns:
      Examples of each split.

    Raises:
      UserError: no tar there, or TensorFlow is not installed.
    """
    tars = Path(tars)
    if not any((tars / name).is_file() for name in TARS):
        raise UserError(f"--tars={tars} holds none of {' and '.join(TARS)}.")
    try:
        import tensorflow  # noqa: F401 - what the builder needs and imports when it runs
    except ImportError as error:
        raise UserError(
            "Preparing ImageNet needs TensorFlow: pip install 'mmjax[tfds-build]', in an "
            "environment of its own if you like; reading it does not."
        ) from error
    import tensorflow_datasets as tfds

    builder = tfds.builder("imagenet2012", data_dir=str(output), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(tars)),
    )
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Prepares ImageNet for TFDS from its tars.")
    parser.add_argument("--tars", required=True, metavar="DIR", help=" and ".join(TARS))
    parser.add_argument("--output", required=True, metavar="DIR", help="the data_dir to write")
    args = parser.parse_args(argv)
    try:
        splits = build(args.tars, args.output)
    except UserError as error:
        print(f"build_imagenet: {error}", file=sys.stderr)
        sys.exit(2)
    for split, count in splits.items():
        print(f"{split}: {count:,} examples: tfds://imagenet2012?data_dir={args.output}")


if __name__ == "__main__":
    main()
