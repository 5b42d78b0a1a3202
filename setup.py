"""Packages of the distribution; everything else is declared in pyproject.toml."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["kdlib", "kdlib.*"], exclude=["*.__pycache__"]),
        "kdlib.notebooks",
    ],
    package_dir={"kdlib.notebooks": "notebooks"},
)
