"""Send an exported folder to a repository of the Hugging Face hub: private, unless --public is given.

    python -m tools.export_pytorch --workdir=runs/flickr8k --out=exported
    python -m tools.push exported --repo=OWNER/NAME --dry_run
    python -m tools.push exported --repo=OWNER/NAME

`hf auth login` stores the token, or HF_TOKEN has it. The folder goes in one commit, so the repository has all of it or
nothing. Exit code 2: it cannot be done, with one line that says why.
"""

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.interop import hub
from bridge_jax.run import command_line, terminal

_REPO = flags.DEFINE_string("repo", None, "The repository, as OWNER/NAME; it is made if it is not there.")
_PUBLIC = flags.DEFINE_bool("public", False, "Make a new repository public, and write to one that is.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be sent, and send nothing.")


def main(argv: list[str]) -> None:
    """Send the folder `argv[1]` and print the address of the commit."""
    if len(argv) < 2:
        raise ConfigError("expected one argument, got none: give a folder that tools.export_pytorch wrote")
    folder, repo = argv[1], command_line.required(_REPO)
    hub.check_repo(repo)
    listed = hub.files(folder)
    if not _DRY_RUN.value:
        terminal.say(hub.push(folder, repo, _PUBLIC.value))
        return
    for file in listed:
        terminal.say(f"{file.size:>14,}  {file.name}")
    total, visible = sum(file.size for file in listed), "public" if _PUBLIC.value else "private"
    terminal.say(f"{total:>14,}  bytes in {len(listed)} files would go to {repo}, {visible}")


if __name__ == "__main__":
    command_line.run(main, positional=1)
