"""What other projects' own tests need to run here."""

import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sdist(name: str) -> Path:
    """Give the folder of a library's sources, of the version installed; pip downloads them once."""
    installed = version(name)
    folder = ROOT / "target" / f"{name}-{installed}"
    if not folder.exists():
        arriving = folder.with_suffix(".download")
        pip(
            "download",
            "--no-deps",
            "--no-binary",
            name,
            "-d",
            str(arriving),
            f"{name}=={installed}",
        )
        with tarfile.open(next(arriving.glob("*.tar.gz"))) as archive:
            archive.extractall(arriving, filter="data")
        next(path for path in arriving.iterdir() if path.is_dir()).rename(folder)
        shutil.rmtree(arriving)
    return folder


def extra(library: str, *names: str) -> Path:
    """Give a folder with packages that only a library's tests need."""
    folder = ROOT / "target" / f"{library}-packages"
    if not folder.exists():
        pip("install", "--no-deps", "--target", str(folder), *names)
    return folder


def pip(command: str, *arguments: str) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", command, "-q", *arguments], check=True)
