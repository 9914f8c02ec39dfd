"""The repository's address stands in pyproject.toml; this writes it wherever else it is needed.

    python kaggle_kernel_metadata/links.py [owner/name]       make links REPO=owner/name

That is: badges and pip lines of the READMEs, the first code cell of every notebook, CITATION.cff
(and its version). The tag from which helpers is installed is v and the version of pyproject.toml.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLUG = r"[\w.-]+/[\w.-]+?"
PROJECT = re.compile(rf'(?m)^(Repository = "https://github\.com/){SLUG}(?=")')
LINKS = re.compile(rf"((?:github\.com|research\.google\.com/github)/){SLUG}(?=/blob/)")
INSTALL = re.compile(rf"(git\+https://github\.com/){SLUG}@v\d[\w.]*")
CITED = re.compile(rf'(?m)^(repository-code: "https://github\.com/){SLUG}(?=")')
VERSION = re.compile(r"(?m)^(version: ).*(?=\nrepository-code: )")  # of CITATION.cff alone
PLACES = ("README.md", "notebooks/*.py", "notebooks/*.ipynb", "kaggle_kernel_metadata/README.md",
          "CITATION.cff")  # fmt: skip


def project(root=ROOT) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def address(root=ROOT) -> str:
    """owner/name of the repository."""
    return project(root)["urls"]["Repository"].removeprefix("https://github.com/")


def tag(root=ROOT) -> str:
    return f"v{project(root)['version']}"


def places(root=ROOT) -> list[Path]:
    return sorted(path for pattern in PLACES for path in root.glob(pattern))


def write(root=ROOT, repository: str | None = None) -> list[Path]:
    """Write ``repository`` (owner/name; None: as it stands) everywhere; the files changed."""
    if repository:
        if not re.fullmatch(r"[\w-]+/[\w.-]+(?<!\.git)", repository):  # a badge needs the page
            raise ValueError(f"REPO={repository!r}: give it as owner/name.")
        path = root / "pyproject.toml"
        path.write_text(PROJECT.sub(rf"\g<1>{repository}", path.read_text()))
    changed = []
    for path in places(root):
        text = path.read_text()
        new = LINKS.sub(rf"\g<1>{address(root)}", text)
        new = INSTALL.sub(rf"\g<1>{address(root)}@{tag(root)}", new)
        new = CITED.sub(rf"\g<1>{address(root)}", new)
        new = VERSION.sub(rf"\g<1>{project(root)['version']}", new)
        if new != text:
            path.write_text(new)
            changed.append(path)
    return changed


if __name__ == "__main__":
    try:
        for path in write(repository=" ".join(sys.argv[1:])):
            print(path.relative_to(ROOT))
    except ValueError as error:
        sys.exit(str(error))
    print(f"github.com/{address()} at {tag()}")
