"""What the --help of each command ends with: its examples."""

_OF_SOURCES = """
PATH is what config.data.train.NAME.path takes. Its other keys are set by --KEY=VALUE
(mmjax train --keys: data.train.*).
"""
EXAMPLES = {
    "train": """\
examples:
  mmjax train --config=pairs:smoke --workdir=/tmp/smoke
  mmjax train --config=pairs --config.data.train.pairs.path=captions.csv --workdir=runs/a
  mmjax train --config=my/config.py --workdir=runs/b

pairs is a recipe (mmjax.list_recipes(), configs/ in the repository); NAME:smoke runs a few steps of
it on generated data. Any key is set by --config.KEY=VALUE (mmjax train --keys lists them all, with
their ranges; with --config=NAME, its values). A tuple
is written a,b or (a,b) or ["a","b"], and a alone is a tuple of one; true and false are written so.
Run the same command again to resume from the newest checkpoint in the workdir.
""",
    "plan": """\
examples:
  mmjax plan --config=clip_vit_b16 --topology=v5e:16x16
  mmjax plan --config=clip_vit_b16 --topology=h100:4x8 --sweep=mesh=32x1x1,4x8x1
  mmjax plan --config=clip_vit_b16 --compare=siglip_b16 --topology=v5e:8x8

No accelerator is needed: libtpu (pip install 'mmjax[tpu]') or the CUDA wheels (pip install
'mmjax[gpu]') bring the compiler. Any key is set by --config.KEY=VALUE. The exit status is 1 when
something does not fit.
""",
    "doctor": """\
examples:
  mmjax doctor --workdir=runs/a
  srun mmjax doctor --distributed --workdir=/shared/runs/a --json=doctor.json

The exit status is 1 when something looks wrong. Put the report into a bug report.
""",
    "embed": """\
example:
  mmjax embed --config=mobileclip_reinforced --output=runs/embeddings
  mmjax train --config=mobileclip_reinforced --workdir=runs/student \\
      --config.teachers.datacomp.cached=runs/embeddings/datacomp \\
      --config.teachers.openai.cached=runs/embeddings/openai

Every teacher of the config (config.teachers.NAME.source) sees config.data.copies augmented copies
of each training example. Training with the same seed, augmentation and number of copies reads them.
Any key is set by --config.KEY=VALUE. Run the same command again after an interruption.
""",
    "eval": """\
examples:
  mmjax eval --workdir=runs/demo
  mmjax eval --workdir=runs/demo --task=retrieval --data=my/captions.csv
  mmjax eval --weights=openai/clip-vit-base-patch32 --task=imagenet --data=tfds://imagenet2012
  mmjax eval --workdir=runs/demo/checkpoints/500 --task=classification --data=photos \\
      --classes=names.txt --batch_size=64
  mmjax eval --workdir=runs/demo --task=suite --data=suite.yaml --output=robustness.md
""",
    "export": """\
example:
  mmjax export --workdir=runs/demo --format=huggingface --output=runs/demo/huggingface
  python -c "from transformers import CLIPModel; CLIPModel.from_pretrained('runs/demo/huggingface')"
""",
    "convert": """\
examples:
  mmjax convert openai/clip-vit-base-patch32 clip-b32 --format=open_clip
  mmjax convert runs/demo demo-openai --format=openai
  mmjax convert google/vit-base-patch16-224 vit-14 --format=huggingface --patch-size=14 \
      --image-size=196
""",
    "data": """\
examples:
  mmjax data inspect cc3m --sheet=sheet.png
  mmjax data dedup cc3m --against=imagenet/val --output=cc3m.drop.json
  mmjax data convert cc3m cc3m_array_record --to=arrayrecord

mmjax data COMMAND --help says more.
""",
    "data inspect": f"""\
examples:
  mmjax data inspect cc3m --sheet=sheet.png
  mmjax data inspect cc3m --caption=json:caption --samples=0 --json=cc3m.json
  mmjax data inspect 's3://bucket/laion/{{00000..00099}}.tar' --filter='similarity > 0.3'
{_OF_SOURCES}""",
    "data dedup": f"""\
example:
  mmjax data dedup cc3m --against=imagenet/val --output=cc3m.drop.json
  mmjax train --config=pairs --config.data.train.pairs.path=cc3m \\
      --config.data.train.pairs.drop=cc3m.drop.json --workdir=runs/cc3m
{_OF_SOURCES}""",
    "data convert": f"""\
examples:
  mmjax data convert cc3m cc3m_array_record --to=arrayrecord
  mmjax data convert 'imagenet/train-*-of-01024' imagenet_ar --to=arrayrecord --label-offset=-1
  mmjax data convert clips.csv clips --to=tar --media=video --shard-size=1000
  mmjax data convert clips.csv frames --to=tar --media=video --frames=8
{_OF_SOURCES}""",
    "video": """\
examples:
  mmjax video keyframes film.mp4 --output=frames
  mmjax video summarize film.mp4 --seconds=30 --output=summary
  mmjax video search videos --query="a rabbit" --model=openai/clip-vit-base-patch32

mmjax video COMMAND --help says more.
""",
    "video keyframes": """\
examples:
  mmjax video keyframes film.mp4 --count=8 --output=frames
  mmjax video keyframes film.mp4 --query="a rabbit" --model=openai/clip-vit-base-patch32 \\
      --output=rabbits

PySceneDetect finds the shots. Without --model, frames are compared by histograms of their colours.
""",
    "video summarize": """\
examples:
  mmjax video summarize film.mp4 --seconds=30 --output=summary
  mmjax video summarize film.mp4 --seconds=10 --query="a rabbit" \\
      --model=openai/clip-vit-base-patch32 --output=rabbits

PySceneDetect finds the shots. Without --model, frames are compared by histograms of their colours.
""",
    "video search": """\
example:
  mmjax video search videos --query="a rabbit" --model=openai/clip-vit-base-patch32

The first query reads every video; the next ones read what the first has kept.
""",
    "video benchmark": """\
examples:
  mmjax video benchmark eccv16_dataset_tvsum_google_pool5.h5 --protocol=tvsum
  mmjax video benchmark eccv16_dataset_summe_google_pool5.h5 --protocol=summe --scores=mine.npz

Reading .h5 needs h5py (pip install h5py).
""",
    "models": """\
examples:
  mmjax models
  mmjax models ViT-B/16
""",
    "launch": """\
examples:
  mmjax launch --list
  mmjax launch --copy=launch
  launch/slurm/submit.sh --help
""",
    "report": """\
examples:
  mmjax report --workdir=runs/demo
  mmjax report --workdir=runs/demo --output=demo.html
""",
    "completion": """\
examples:
  mmjax completion bash > ~/.local/share/bash-completion/completions/mmjax
  mmjax completion zsh > ~/.zfunc/_mmjax
  mmjax completion fish > ~/.config/fish/completions/mmjax.fish
""",
}
