"""What the build installs is what the source holds."""

import re
from pathlib import Path

from p11host import conf_path

ROOT = Path(__file__).resolve().parent.parent


def test_every_python_source_is_installed() -> None:
    """meson.build lists each source of the package, one by one, and none that is gone."""
    listed = re.findall(
        r"'(p11host/[^']+\.(?:py|typed))'", (ROOT / "meson.build").read_text().split("install_sources", 1)[1]
    )
    found = [path for kind in ("*.py", "py.typed") for path in (ROOT / "p11host").rglob(kind)]

    assert sorted(str(path.relative_to(ROOT)) for path in found) == sorted(listed)


def test_every_table_is_known_to_the_build() -> None:
    """A change of any table makes the C anew, and every table is installed."""
    text = (ROOT / "meson.build").read_text()

    assert sorted(f"specs/{path.name}" for path in (ROOT / "specs").glob("*.toml")) == sorted(
        re.findall(r"'(specs/\w+\.toml)'", text)
    )


def test_every_sample_is_installed() -> None:
    """Each file of conf/ comes with the package, where the package itself says they are, byte for byte."""
    samples = samples_below(ROOT / "conf")
    listed = re.findall(r"'(conf/[^']+)'", (ROOT / "meson.build").read_text())

    assert sorted(f"conf/{name}" for name in samples) == sorted(listed)
    assert samples == samples_below(conf_path())


def samples_below(directory: Path) -> dict[str, bytes]:
    """Return all files of a directory by their names in it."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_versions_agree() -> None:
    """The package, the project of the build and the Python module say one version."""
    found = {
        re.search(pattern, (ROOT / name).read_text())[1]  # type: ignore[index]
        for name, pattern in {
            "pyproject.toml": r'\nversion = "([^"]+)"',
            "meson.build": r"\n  version: '([^']+)'",
            "p11host/__init__.py": r'\n__version__ = "([^"]+)"',
        }.items()
    }

    assert 1 == len(found)
