"""Adds the folder `configs` to the wheel as `dialsum/configs`; everything else stands in pyproject.toml."""

from setuptools import find_namespace_packages, setup

PACKAGES = find_namespace_packages(include=["tuning_common*", "dialsum*", "cluster*", "tune_jobs*"])
setup(packages=[*PACKAGES, "dialsum.configs"], package_dir={"dialsum.configs": "configs"})
