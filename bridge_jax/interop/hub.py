"""Send an exported folder to a repository of the Hugging Face hub, in one commit."""

from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from bridge_jax.config import ConfigError
from bridge_jax.interop import hf_import, torch_export

# Its bases are OSError and the error of the HTTP library below huggingface_hub, which is raised without a network.
_FAULTS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, RuntimeError, ValueError)


class File(NamedTuple):
    """A file to send: its path in the folder, and its size in bytes."""

    name: str
    size: int


def files(folder: str | Path) -> list[File]:
    """Return the files of an exported folder, hidden ones left out.

    Raises ConfigError, naming what is missing, if tools.export_pytorch did not write the folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder: expected one that tools.export_pytorch wrote")
    wanted = ("config.json", torch_export.WEIGHTS, torch_export.VOCABULARY, "README.md")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder} has no {', '.join(missing)}: expected a folder that tools.export_pytorch wrote")
    if (found := hf_import.model_type(folder)) != torch_export.MODEL_TYPE:
        raise ConfigError(
            f"{folder}/config.json: model_type is {found!r}; expected {torch_export.MODEL_TYPE!r}, which "
            "tools.export_pytorch writes"
        )
    inside = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    return [File(path.as_posix(), (folder / path).stat().st_size) for path in shown]


def check_repo(repo: str) -> None:
    """Raise ConfigError unless `repo` is the name of a repository with its owner."""
    try:
        huggingface_hub.utils.validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--repo: {_line(error)}") from error
    if "/" not in repo:
        raise ConfigError(f"--repo: {repo!r} has no owner; expected OWNER/NAME")


def push(folder: str | Path, repo: str, public: bool) -> str:
    """Send the folder's files in one commit, to a new repository where `repo` is none yet. Return the commit's address.

    The hub and the token are those of huggingface_hub: HF_ENDPOINT, HF_TOKEN, `hf auth login`. Raises ConfigError if
    the folder is no export, if the repository is public and `public` is not given, or if the hub refuses.
    """
    listed, api = files(folder), HfApi()
    check_repo(repo)
    added = [CommitOperationAdd(name, Path(folder).expanduser() / name) for name, _ in listed]
    try:
        api.create_repo(repo, private=not public, exist_ok=True)  # one that is there stays as visible as it is
        if public or api.model_info(repo).private:
            return api.create_commit(repo, added, commit_message="Add the model").commit_url
    except _FAULTS as error:
        raise ConfigError(f"{repo} was not written: {_line(error)}") from error
    raise ConfigError(f"{repo} is a public repository; expected a private one: add --public, or name another")


def _line(error: BaseException) -> str:
    """Return the text of an error in one line, with that of its cause if it says more."""
    text, cause = (" ".join(str(each or "").split()) for each in (error, error.__cause__))
    return (text if cause in text else f"{text} {cause}")[:400]
