"""The style of a report. The page carries it, and allows no other by its hash."""

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
h4 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
.queries { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21.5rem), 1fr)); }
.example { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .8rem; }
.example p { margin: 0 0 .3rem; }
.example figure { margin: 0; width: 9.6rem; }
.example figcaption { font-size: .8rem; font-weight: 400; line-height: 1.35; color: var(--soft); }
.example .true { border-left: 4px solid var(--a); padding-left: .5rem; width: 10.2rem; }
.query { font-weight: 600; }
.ranks { font-size: .85rem; color: var(--soft); }
.answers { display: flex; flex-wrap: wrap; gap: .6rem; }
.answers .caption { font-size: .9rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.looks { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
.look { min-width: 0; }
.look figcaption { font-weight: 400; font-size: .8rem; color: var(--soft); }
.frame { position: relative; }
.frame img { width: 100%; border-radius: 0; }
.frame svg { position: absolute; inset: 0; height: 100%; }
.frame rect { fill: #000; }
.words button { font: inherit; color: var(--ink); background: none; border: 0; border-bottom: 2px solid var(--line);
  padding: .1rem .15rem; margin: 0 .1rem .2rem 0; min-height: 1.6rem; cursor: pointer; }
.words button.on { border-color: var(--a); color: var(--a); }
.maps { border: 1px solid var(--line); border-radius: 6px; margin: .8rem 0; padding: .4rem .8rem; }
.maps label { margin-right: 1.2rem; white-space: nowrap; }
.dots.plane .key.b::before { content: "\25a0"; }
.pairs { stroke: var(--soft); stroke-width: .5; stroke-opacity: .55; fill: none; }
.cloud { fill: none; stroke-width: 3.6; stroke-opacity: .75; }
.cloud.a { stroke: var(--a); stroke-linecap: round; }
.cloud.b { stroke: var(--b); stroke-linecap: square; stroke-width: 3; }
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
.scroll th, .scroll td { white-space: nowrap; }
.config td { white-space: normal; overflow-wrap: anywhere; max-width: 26rem; min-width: 7rem; }
:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
"""
