"""The style and the script of a report. The page carries both, and allows no other by their hashes."""

CSS = r"""
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1c2126; --soft: #5c666f; --line: #dcdfe1; --band: #f0f1ee;
  --a: #1b66ab; --b: #b84a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e8ea; --soft: #9ba5ae; --line: #363d43;
  --band: #1e2327; --a: #7ab8f0; --b: #f3a360; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .4rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 0; }
.charts + p { margin-top: 1.5rem; }
p { margin: .3rem 0 .7rem; max-width: 46rem; }
.lead { font-size: 1.05rem; }
.note, .about { color: var(--soft); }
.warn { border-left: 4px solid var(--b); padding-left: .8rem; }
nav a { margin-right: 1rem; }
a { color: var(--a); }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .8rem 0; }
dt { color: var(--soft); }
dd { margin: 0; }
code { font: .9em ui-monospace, monospace; }
.panels { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17.5rem), 1fr)); }
.charts { display: grid; gap: 1.6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
figure { margin: .6rem 0 0; }
figcaption { font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg.wide, svg.recall { max-width: 34rem; }
.scroll + h3 { margin-top: 2rem; }
svg text { fill: var(--soft); font: 10.5px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg text.strong { fill: var(--ink); font-weight: 600; }
.ruler { stroke: var(--line); }
.band { fill: var(--band); }
.bar { fill: var(--a); }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
polyline.a, .interval.a { stroke: var(--a); }
polyline.b, .interval.b { stroke: var(--b); }
polyline.b { stroke-dasharray: 5 2.5; }
circle.a, .dot.a { fill: var(--a); }
circle.b, .dot.b { fill: var(--b); }
.interval { stroke-width: 2.2; stroke-linecap: round; }
.cursor { stroke: none; }
.cursor.on { stroke: var(--ink); stroke-width: .8; }
.legend { margin: 0; font-size: .85rem; color: var(--soft); }
.key { margin-right: 1rem; white-space: nowrap; }
.key b { color: var(--ink); font-weight: 600; }
.key::before { content: ""; display: inline-block; width: 1.1em; margin-right: .4em; vertical-align: .25em;
  border-top: 3px solid var(--a); }
.key.b::before { border-top: 3px dashed var(--b); }
.dots .key::before { content: "\25cf"; border: 0; color: var(--a); width: auto; vertical-align: baseline; }
.dots .key.b::before { content: "\25c6"; border: 0; color: var(--b); }
output { display: block; min-height: 1.3rem; font-size: .85rem; font-variant-numeric: tabular-nums; }
details { font-size: .85rem; color: var(--soft); }
summary { cursor: pointer; }
figure details[open] { max-height: 22rem; overflow: auto; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
.number, figure th, figure td { text-align: right; white-space: nowrap; }
.config td { overflow-wrap: anywhere; max-width: 26rem; min-width: 7rem; }
:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
"""

# A pointer or the arrow keys choose a row of a panel's table; the row is read out under the panel.
SCRIPT = """
for (const svg of document.querySelectorAll('svg.curve')) {
  const figure = svg.closest('figure'), out = figure.querySelector('output'), line = svg.querySelector('.cursor');
  const names = [...figure.querySelectorAll('thead th')].map(cell => cell.textContent);
  const rows = [...figure.querySelectorAll('tbody tr')];
  let at = rows.length;
  const show = index => {
    at = Math.max(0, Math.min(rows.length - 1, index));
    const cells = [...rows[at].children].map((cell, i) => [names[i], cell.textContent]);
    out.textContent = cells.filter(cell => cell[1]).map(cell => cell.join(' ')).join(', ');
    line.setAttribute('x1', rows[at].dataset.x);
    line.setAttribute('x2', rows[at].dataset.x);
    line.classList.add('on');
  };
  const hide = () => { line.classList.remove('on'); out.textContent = ''; };
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let best = 0;
    rows.forEach((row, i) => { if (Math.abs(row.dataset.x - x) < Math.abs(rows[best].dataset.x - x)) best = i; });
    show(best);
  });
  svg.addEventListener('pointerleave', hide);
  svg.addEventListener('blur', hide);
  svg.addEventListener('keydown', event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { show(at + step); event.preventDefault(); }
  });
}
"""
