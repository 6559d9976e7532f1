"""The one thing of the build that pyproject.toml cannot say: which data is copied into the package."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = {"assets": "*/*", "configs": "*.yaml", "eval": "**/*"}
"""Folder at the top level -> which of its files the package reads; the pictures of `assets/` are the README's."""


def data_files() -> list[Path]:
    """What is copied to `mmhicra/_data`, relative to this file. A checkout reads the originals."""
    found = [path for folder, pattern in DATA.items() for path in Path(folder).glob(pattern)]
    return sorted(path for path in found if path.is_file())


class BuildPackage(build_py):
    """Builds the package with its data inside."""

    def run(self) -> None:
        """Copy modules, then data; an editable installation has the checkout's."""
        super().run()
        if not self.editable_mode:
            for path in data_files():
                target = self._data_folder() / path
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What `run` writes."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *(str(self._data_folder() / p) for p in data_files())]

    def get_source_files(self) -> list[str]:
        """What a source distribution must hold."""
        return [*super().get_source_files(), *map(str, data_files())]

    def _data_folder(self) -> Path:
        return Path(self.build_lib, "mmhicra", "_data")


setup(cmdclass={"build_py": BuildPackage})
