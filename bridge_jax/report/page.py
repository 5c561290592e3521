"""Write the page of a run: one HTML file that reads nothing else."""

import base64
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from bridge_jax.report import curves, recalls
from bridge_jax.report.drawing import NONE, number, table, waterfall
from bridge_jax.report.script import SCRIPT
from bridge_jax.report.story import ABSENT, Story, changes
from bridge_jax.report.style import CSS

ACTIVITIES = "train advances the training; the others wait for it, save, evaluate, or were lost to a kill."


class Section(NamedTuple):
    """A part of the page: the name of its link, its heading, and its content."""

    key: str
    title: str
    content: Markup


def render(story: Story, seen: Sequence[Section] = ()) -> str:
    """Return the HTML of the report. The sections `seen` show photos and captions; they come after the scores."""
    sections = [
        Section("run", "What was run", run(story)),
        Section("scores", "Scores", scores(story)),
        *seen,
        Section("curves", "Curves", _curves(story)),
        Section("config", "The config", _config(story)),
    ]
    return document(story.workdir, lead(story), sections)


def document(title: str, lead: Markup, sections: Sequence[Section]) -> str:
    """Return the HTML of a page from its title, the lines under it, and its sections."""
    links = NONE.join(Markup('<a href="#{}">{}</a>').format(key, title) for key, title, _ in sections)
    body = NONE.join(
        Markup('<section aria-labelledby="{}"><h2 id="{}">{}</h2>{}</section>').format(key, key, title, content)
        for key, title, content in sections
    )
    return Markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="{}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark"><title>Report of {}</title><style>{}</style></head><body>'
        '<a class="skip" href="#{}">Skip to the report</a><header><h1>Report of {}</h1>{}<nav>{}</nav></header>'
        "<main>{}</main><script>{}</script></body></html>\n"
    ).format(
        _policy(), title, Markup(CSS), sections[0].key, title, lead, links, body, Markup(SCRIPT)
    )  # fmt: skip


def _policy() -> str:
    """Return the Content-Security-Policy: nothing is loaded, and no other style or script than ours runs.

    The photos are in the page itself, as data.
    """
    style, script = (
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in (CSS, SCRIPT)
    )
    own = f"style-src {style}; script-src {script}; img-src data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def lead(story: Story) -> Markup:
    """Return how the run ended, in a sentence, and what is missing on the page."""
    ended, last = story.outcome, story.stages[-1]
    text = Markup('<p class="lead">{} of {} steps, stage {}: <b>{}</b>.</p>').format(
        story.step, last.end, ended["stage"], ended["cause"].replace("_", " ")
    )
    if ended["message"]:
        text += Markup('<p class="warn">{}</p>').format(ended["message"])
    if story.torn:
        text += Markup('<p class="warn">A kill cut the last line of metrics.jsonl; it is left out here.</p>')
    return text


def _definitions(pairs: Sequence[tuple[str, str | Markup]]) -> Markup:
    lines = [Markup("<dt>{}</dt><dd>{}</dd>").format(name, text) for name, text in pairs]
    return Markup("<dl>{}</dl>").format(NONE.join(lines))


def run(story: Story, of: str = "") -> Markup:
    """Return the facts of a run, its stages, and where its seconds went. `of` tells its tables from another run's."""
    ended = story.outcome
    data = story.config["data"]
    about = _definitions(
        [
            ("command", Markup("<code>{}</code>").format(ended["command"])),
            ("data", f"{data['dataset']}, {data['train_split']}; checkpoints chosen on {data['eval_split']}"),
            ("towers", f"{story.config['vision']['tower']} and {story.config['text']['tower']}"),
            ("bridge", f"{story.config['bridge']['design']}, {story.config['bridge']['layers']} layers"),
            ("seed", str(story.config["seed"])),
            ("began, ended", f"{_moment(ended['began'])}, {_moment(ended['at'])} UTC; starts: {ended['starts']}"),
            *_provenance(story),
        ]
    )
    stages = [
        (
            stage.name,
            f"{stage.start + 1} to {stage.end}",
            ", ".join(story.config["stages"][stage.name]["losses"]),
            str(story.config["stages"][stage.name]["batch_size"]),
            number(story.config["stages"][stage.name]["learning_rate"]),
        )
        for stage in story.stages
    ]
    head = ("stage", "steps", "losses", "batch size", "learning rate")
    secs = ended["secs"]
    return Markup('{}{}<h3>Where its {} seconds went</h3><p class="about">{}</p>{}').format(
        about, table(head, stages, 3, "Stages" + of), number(round(sum(secs.values()))), ACTIVITIES, waterfall(secs)
    )


def _provenance(story: Story) -> list[tuple[str, str]]:
    """Return machine, commit and data of the last start; of each start where the others differ."""
    host, last = story.outcome["host"], story.starts[-1:]
    if not last:
        return [("machine", f"{host}; its devices are not recorded"), ("commit, data", "not recorded: an older run")]
    said = [
        (
            ("machine", f"{host}; {start['devices']} x {start['device']} ({start['platform']}), processes: "
             f"{start['processes']}; jax {start['jax']}"),
            ("commit", (start["commit"] or "unknown: no git") + " and changes on top" * start["uncommitted"]),
            ("data fingerprint", start["data"]),
        )
        for start in story.starts
    ]  # fmt: skip
    pairs = list(said[-1])
    for start, earlier in zip(story.starts[:-1], said[:-1], strict=True):
        differs = "; ".join(text for _, text in set(earlier) - set(said[-1]))
        pairs += [(f"start at step {start['step']}", differs)] if differs else []
    return pairs


def _moment(iso: str) -> str:
    """Return day and minute of a moment in outcome.json, which is in UTC."""
    return iso[:16].replace("T", " ")


def scores(story: Story, of: str = "") -> Markup:
    """Return the final scores of a run. `of` tells its tables from another run's."""
    shown = recalls.rows(story)
    others = [(name, number(value)) for name, value in recalls.others(story)]
    if not shown and not others:
        return Markup("<p>There are none: the run has not scored its best checkpoint yet.</p>")
    parts, splits = [], list(dict.fromkeys(row.split for row in shown))
    if shown:
        charts = [recalls.draw(split, [row for row in shown if row.split == split]) for split in splits]
        parts = [
            Markup(
                '<p class="about">R@1 in percent of the best checkpoint, with 95 % intervals over photos where the run '
                "recorded them. Unimodal is the order of the two embeddings alone; rerank looks at its best again "
                "with the bridge.</p>"
            ),
            Markup('<div class="charts">{}</div>').format(NONE.join(charts)),
            recalls.gains(story),
            *(recalls.full_table(split + of, [row for row in shown if row.split == split]) for split in splits),
        ]
    if others:
        parts.append(table(("score", "value"), others, 1, "Other final scores" + of))
    return NONE.join(parts)


def _curves(story: Story) -> Markup:
    parts = [
        Markup(
            '<p class="about">Shaded bands are stages; a curve breaks where one ends. Point at a chart, or focus it '
            "and press the arrow keys, to read its values. Panels of gates share one axis, and so do those of "
            "entropies.</p>"
        )
    ]
    for title, about, panels in curves.families(story):
        shared = title in ("Gates", "Entropies")
        drawn = [curves.draw(panel, story.stages, *curves.bounds(panels if shared else [panel])) for panel in panels]
        parts.append(
            Markup('<h3>{}</h3><p class="about">{}</p><div class="panels">{}</div>').format(
                title, about, NONE.join(drawn)
            )
        )
    if still := curves.constants(story):
        said = ", ".join(f"{name} {number(value)}" for name, value in still)
        parts.append(Markup('<p class="about">These never change: {}.</p>').format(said))
    return NONE.join(parts)


def _config(story: Story) -> Markup:
    found = changes(story.config)
    changed = [line for line in found if line[1] != ABSENT]
    added = [(name, now) for name, before, now in found if before == ABSENT]
    return Markup(
        '<p class="about">Against configs.common.base(), {} keys have another value, and {} more are set, which it '
        'leaves to every experiment.</p><div class="config">{}<details><summary>The keys that the base does not have'
        "</summary>{}</details></div>"
    ).format(
        *(len(changed), len(added)),
        table(("key", "base", "this run"), changed, 3, "Other values than the base"),
        table(("key", "this run"), added, 2, "Not in the base"),
    )
