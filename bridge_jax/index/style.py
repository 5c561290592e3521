"""The style of the search page."""

CSS = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1c2126; --soft: #5c666f; --line: #d3d7da; --band: #f0f1ee;
  --a: #1b66ab; --b: #b84a00; --on: #fff; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e6e8ea; --soft: #9ba5ae; --line: #3c444b;
  --band: #1e2327; --a: #7ab8f0; --b: #f3a360; --on: #10141a; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.bar[hidden] { display: block !important; visibility: hidden; }
.score b:empty { display: none; }
body { margin: 0 auto; padding: 1rem 1rem 3rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; }
.soft { color: var(--soft); font-size: .875rem; }
p { margin: .5rem 0; }
header { margin-bottom: 1rem; }
.box { display: flex; gap: .5rem; align-items: stretch; max-width: 46rem; }
#q { flex: 1; min-width: 0; font: inherit; font-size: 1.1rem; padding: .6rem .8rem; color: inherit;
  background: var(--band); border: 1px solid var(--line); border-radius: .6rem; }
#asked { width: 3rem; height: 3rem; object-fit: cover; border-radius: .5rem; }
button, .button { font: inherit; font-size: .95rem; padding: .5rem .9rem; border: 1px solid var(--line);
  border-radius: .6rem; background: var(--band); color: var(--ink); cursor: pointer; display: inline-flex;
  align-items: center; }
button[type=submit] { background: var(--a); border-color: var(--a); color: var(--on); }
button:hover, .button:hover { border-color: var(--a); }
.unseen:focus-visible + *, .button:has(+ :focus-visible), :focus-visible { outline: 2px solid var(--a);
  outline-offset: 2px; }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; width: max-content; }
.filters { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; margin-top: .5rem; font-size: .9rem; }
.filters select, .filters input[type=date] { font: inherit; padding: .2rem .4rem; color: inherit; max-width: 14rem;
  background: var(--band); border: 1px solid var(--line); border-radius: .4rem; }
#status { min-height: 1.45rem; font-size: .875rem; color: var(--soft); font-variant-numeric: tabular-nums; }
#status.wrong { color: var(--b); font-size: 1rem; }
.words { font-size: .95rem; }
.words button { padding: .1rem .45rem; margin: 0 .15rem .2rem 0; border-radius: .4rem; }
.words button[aria-pressed=true] { background: var(--a); border-color: var(--a); color: var(--on); }
.none { font-size: 1.1rem; border-left: 4px solid var(--b); padding-left: .8rem; margin: 0 0 1rem; }
#results { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.1rem .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(46%, 11rem), 1fr)); outline: none; }
.hit { min-width: 0; }
.view { position: relative; display: block; border-radius: .5rem; overflow: hidden; aspect-ratio: 1;
  background: var(--band); }
.view img, .view canvas { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; display: block; }
.squash .view img { object-fit: fill; }
.view canvas { pointer-events: none; }
.view.gone::after { content: "gone since the index was built"; position: absolute; inset: auto 0 0; padding: .3rem;
  background: var(--paper); color: var(--b); font-size: .8rem; }
.far .view { opacity: .55; }
.bar { height: .35rem; margin: .4rem 0 .2rem; border-radius: .2rem; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; width: 0; background: var(--a); transition: width .25s; }
.far .bar i { background: var(--soft); }
.score { display: flex; justify-content: space-between; gap: .5rem; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
.path { font-size: .8rem; color: var(--soft); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.acts { display: flex; flex-wrap: wrap; gap: .1rem .8rem; font-size: .8rem; }
.acts a, .acts button { border: 0; background: none; color: var(--a); padding: .25rem 0; font-size: inherit;
  text-decoration: none; }
.acts a:hover, .acts button:hover { text-decoration: underline; }
#more { margin: 1.5rem auto 0; display: block; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; }
kbd { font: .85em ui-monospace, monospace; border: 1px solid var(--line); border-radius: .25rem; padding: 0 .3em; }
#drop { position: fixed; inset: 1rem; display: grid; place-items: center; font-size: 1.3rem; background: var(--paper);
  border: 3px dashed var(--a); border-radius: 1rem; opacity: .95; }
@media (max-width: 30rem) { .box { flex-wrap: wrap; } #q { flex-basis: 100%; }
  #asked:not([hidden]) + #q { flex-basis: 75%; } }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }
"""
