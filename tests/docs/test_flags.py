"""The flags of every command of the pages and of launch/README.md, parsed by the programs' own definitions.

Of launch/README.md the commands that start a slice or a job are accepted in tests/launch/, the others here. A command
within a sentence or a table is one of a block, which test_commands.py runs, or its flags are parsed here.
"""

import json
import re
import sys

from tests.docs.test_commands import MODULE, PAGES, ROOT, blocks, commands, given, run, words_of

PROGRAMS = (
    *("bridge_jax.main", "tools.ablate", "tools.evaluate", "tools.plan", "tools.push", "tools.search"),
    *(
        "tools.bench",
        "tools.bench_data",
        "tools.bench_step",
        "tools.bench_decode",
        "tools.bench_prepare",
        "tools.bench_rerank",
        "tools.bench_search",
        "tools.replay",
    ),
)
PARSE = """
import importlib, json, os, shlex, sys
from absl import flags
from bridge_jax.run import train  # once, what the programs import
for module, *words in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:  # to each command flags of its own program that were never parsed
        program = importlib.import_module(module)
        sys.argv[1:] = words
        flags.FLAGS(sys.argv)
        if hasattr(program, "_CONFIG") and program._CONFIG.value:  # tools.evaluate does without
            program.command_line.read_config(program._CONFIG)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("refused: " + shlex.join([module, *words]))
"""


def spans():
    """Return the commands within a sentence or a table that no block has."""
    outside = [re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S) for path in PAGES]
    lines = [line for text in outside for line in re.findall(r"`((?:python -m|bash|hf) [^`]*)`", text)]
    whole = [" ".join(line.split()) for line in lines]  # a sentence may break its line within a command
    return [words for words in words_of("\n".join(whole)) if words not in commands()]


def launched():
    """Return the commands of launch/README.md that tests/launch/ does not run."""
    every = words_of("\n".join(blocks(ROOT / "launch/README.md")))
    mine = [("python", "-m"), ("hf", "download"), ("bash", "launch/local.sh"), ("bash", "launch/test.sh")]
    return [words for words in every if tuple(words[:2]) in mine]


def test_commands_within_sentences_are_of_programs_that_are_there():
    """A command that names no flag is a name of the program, which another test runs."""
    for words in spans():
        if words[0] == "bash":
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[:2] == list(MODULE), words
            assert len(words) == 3 or words[2] in PROGRAMS, words
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), words


def test_a_machine_for_data_is_prepared_by_the_same_commands():
    for words in launched():
        if words[:3] == [*MODULE, "tools.prepare_data"]:
            words = [word.replace("--raw_dir=raw", "--raw_dir=DIR") for word in words]
        if words[0] == "hf" or words[:3] == [*MODULE, "tools.prepare_data"]:
            assert words in commands()
        elif words[0] == "python":
            assert words[2] in ("tools.ablate", "tools.evaluate")  # their flags are parsed below


def test_flags_and_config_are_accepted_by_the_program():
    mine = [words for words in (*commands(), *spans(), *launched()) if words[1] != "launch/test.sh"]
    every = [words[2:] for words in mine if tuple(words[:2]) == MODULE and words[2] in PROGRAMS and len(words) > 3]
    assert {words[0] for words in every} == set(PROGRAMS)
    for words in mine:  # the shell scripts give their flags to bridge_jax.main
        if words[0] == "bash" and len(words) > 2:
            config = [] if given(words, "config") else ["--config=configs/shapes.py"]
            every.append(["bridge_jax.main", *config, *words[2:]])
    run([sys.executable, "-W", "ignore", "-c", PARSE, json.dumps(every)])
