"""The script of the search page. The address holds the whole query, so links and the back button work."""

JS = r"""
const at = id => document.getElementById(id);
const [form, q, results, status, more] = ['form', 'q', 'results', 'status', 'more'].map(at);
const PAGE = 24, KEYS = ['q', 'like', 'photo', 'folder', 'since', 'until', 'rerank'];
let about = {}, count = PAGE, asking = new AbortController(), looks = new Map(), word = -1;

async function get(path, params, options) {
  const response = await fetch(path + (params ? '?' + params : ''), options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function go(changes) {  // a new query: the filters stay
  const params = new URLSearchParams(location.search);
  if (['q', 'like', 'photo'].some(key => key in changes)) for (const key of ['q', 'like', 'photo']) params.delete(key);
  for (const [key, value] of Object.entries(changes)) value ? params.set(key, value) : params.delete(key);
  history.pushState(null, '', params.size ? '?' + params : '/');
  count = PAGE;
  load();
}

function say(text, wrong) {
  status.textContent = text;
  status.classList.toggle('wrong', Boolean(wrong));
}

async function load() {  // show what the address asks for
  asking.abort();
  asking = new AbortController();
  const options = { signal: asking.signal };
  const params = new URLSearchParams([...new URLSearchParams(location.search)].filter(([key]) => KEYS.includes(key)));
  const text = params.get('q') ?? '';
  q.value = text;
  for (const name of ['folder', 'since', 'until']) at(name).value = params.get(name) ?? '';
  at('rerank').checked = params.get('rerank') !== '0';
  const named = params.get('like') ?? params.get('photo');
  const asked = at('asked');
  asked.hidden = !(params.has('like') || (params.has('photo') && asked.dataset.key === params.get('photo')));
  if (params.has('like')) asked.src = '/thumbnail/' + encodeURIComponent(params.get('like'));
  document.title = text ? text + ' - photos' : 'Search photos';
  at('hint').hidden = Boolean(text || named);
  params.set('n', count);
  say(text || named ? 'searching' : '');
  try {
    if (!text && !named) return show(await get('/newest', params, options), '');
    const reranks = text && about.reranks && at('rerank').checked && !/(^|\s)[+-]\s/.test(text);
    const first = new URLSearchParams(params);
    if (reranks) first.set('rerank', '0');
    const answer = await get('/search', first, options);
    show(answer, text, reranks);
    if (reranks) {
      say('reranking');
      show(await get('/search', params, options), text);
    }
  } catch (error) {
    if (error.name === 'AbortError') return;
    show({ hits: [], matches: null }, '');
    say(error.message, true);
  }
}

function show(answer, text, early) {
  const old = new Map([...results.children].map(item => [item.dataset.id, item]));
  const places = new Map([...old].map(([id, item]) => [id, item.getBoundingClientRect()]));
  const focused = document.activeElement.closest?.('.hit')?.dataset.id;
  results.replaceChildren(...answer.hits.map(hit => fill(old.get(hit.id) ?? tile(hit), hit, answer)));
  if (focused && old.has(focused)) old.get(focused).querySelector('.view').focus();
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) {
    for (const item of results.children) {
      const from = places.get(item.dataset.id), to = item.getBoundingClientRect();
      if (from && (from.x !== to.x || from.y !== to.y)) {
        item.animate([{ transform: `translate(${from.x - to.x}px, ${from.y - to.y}px)` }, { transform: 'none' }],
          { duration: 300, easing: 'ease-out' });
      }
    }
  }
  more.hidden = answer.hits.length < count || count >= 100;
  const refused = answer.matches === false;
  at('none').hidden = !refused;
  at('none').textContent = refused ? `No photo matches "${text}".` + (answer.hits.length ? ' The nearest:' : '') : '';
  if (!early) {
    look(text && answer.hits.some(hit => hit.logit !== null) ? text : '');
    if (answer.ms) {
      const found = refused ? 'no photo matches' : `${answer.hits.length} photos`;
      const order = answer.hits.some(hit => hit.logit !== null) ? 'reranked' : 'by the embeddings';
      say(`${found}, ${order}: ${answer.ms.all.toFixed(0)} ms; p50 ${answer.p50.toFixed(0)}, ` +
        `p95 ${answer.p95.toFixed(0)} ms of ${answer.queries} queries`);
    }
  }
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function tile(hit) {
  const like = element('a', { href: '?like=' + hit.id, className: 'like', textContent: 'More like this' });
  like.addEventListener('click', event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ like: hit.id });
  });
  const copy = element('button', { type: 'button', className: 'copy', textContent: 'Copy path' });
  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(about.root + '/' + hit.path);
      copy.textContent = 'Copied';
    } catch {
      copy.textContent = 'Not allowed here';
    }
    setTimeout(() => { copy.textContent = 'Copy path'; }, 1500);
  });
  const img = element('img', { src: '/thumbnail/' + hit.id, alt: hit.path, loading: 'lazy' });
  const view = element('a', { className: 'view', href: '/photo/' + hit.id, target: '_blank', rel: 'noopener' }, img);
  view.classList.toggle('gone', hit.gone);
  const item = element('li', { className: 'hit' }, view,
    element('div', { className: 'bar' }, element('i', {})),
    element('div', { className: 'score' }, element('b', {}), element('span', { className: 'soft' })),
    element('div', { className: 'path', textContent: hit.path, title: `${hit.path}, ${hit.date}` }),
    element('div', { className: 'acts' }, like, copy));
  item.dataset.id = hit.id;
  return item;
}

function fill(item, hit, answer) {
  const known = (hit.likely ?? null) !== null, percent = known ? Math.round(100 * hit.likely) : 0;
  const bar = item.querySelector('.bar');
  bar.hidden = !known;
  bar.firstChild.style.width = percent + '%';
  item.classList.toggle('far', answer.matches === false);
  item.querySelector('b').textContent = known ? `${percent} %` : '';
  const scores = ['unimodal', 'logit', 'score'].filter(name => (hit[name] ?? null) !== null)
    .map(name => `${name} ${hit[name].toFixed(2)}`);
  item.querySelector('.soft').textContent = scores.length === 3 ? scores[2] : scores[0] ?? hit.date;
  item.querySelector('.score').title = (known ? 'how likely the text is true of it; ' : '') + scores.join(', ');
  return item;
}

function look(text) {  // a button for each word: the photos show where it looks
  looks = new Map();
  word = -1;
  for (const canvas of results.querySelectorAll('canvas')) canvas.remove();
  const line = at('words'), words = text.split(/\s+/).filter(Boolean);
  line.hidden = !words.length;
  line.replaceChildren('Where a word looks: ', ...words.map((name, index) => {
    const button = element('button', { type: 'button', textContent: name, ariaPressed: 'false' });
    for (const kind of ['pointerenter', 'focus', 'click']) button.addEventListener(kind, () => draw(text, index));
    for (const kind of ['pointerleave', 'blur']) button.addEventListener(kind, () => draw(text, -1));
    return button;
  }));
}

async function draw(text, index) {
  word = index;
  [...at('words').children].forEach((button, i) => button.setAttribute('aria-pressed', String(i === index)));
  for (const canvas of results.querySelectorAll('canvas')) canvas.remove();
  const seen = [...results.children].filter(item => {
    const box = item.getBoundingClientRect();
    return index >= 0 && box.bottom > 0 && box.top < innerHeight;
  });
  for (const { dataset } of seen) {
    const ask = () => get('/attention/' + dataset.id, new URLSearchParams({ q: text })).catch(() => null);
    if (!looks.has(dataset.id)) looks.set(dataset.id, ask());
  }
  for (const item of seen) {
    const answer = await looks.get(item.dataset.id);
    if (word !== index) return;
    if (answer?.words[index]) item.querySelector('.view').append(map(answer.words[index]));
  }
}

function map({ side, weights }) {  // a pixel a patch; dark where the word does not look
  const canvas = element('canvas', { width: side, height: side }), context = canvas.getContext('2d');
  const pixels = context.createImageData(side, side);
  weights.forEach((weight, i) => { pixels.data[4 * i + 3] = 210 * (1 - weight); });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

async function upload(file) {
  if (!file) return;
  say('embedding the photo');
  try {
    const headers = { 'Content-Type': 'application/octet-stream' };
    const { photo } = await get('/photo', null, { method: 'POST', body: file, headers });
    at('asked').src = URL.createObjectURL(file);
    at('asked').dataset.key = photo;
    go({ photo });
  } catch (error) {
    say(error.message, true);
  }
}

form.addEventListener('submit', event => {
  event.preventDefault();
  go({ q: q.value.trim() });
});
for (const name of ['folder', 'since', 'until']) {
  at(name).addEventListener('change', () => go({ [name]: at(name).value }));
}
at('rerank').addEventListener('change', () => go({ rerank: at('rerank').checked ? '' : '0' }));
at('upload').addEventListener('change', () => { upload(at('upload').files[0]); at('upload').value = ''; });
more.addEventListener('click', () => { count = Math.min(100, count + PAGE); load(); });
addEventListener('popstate', () => { count = PAGE; load(); });
addEventListener('dragover', event => { event.preventDefault(); at('drop').hidden = false; });
addEventListener('dragleave', event => { if (!event.relatedTarget) at('drop').hidden = true; });
addEventListener('drop', event => {
  event.preventDefault();
  at('drop').hidden = true;
  upload(event.dataTransfer.files[0]);
});
addEventListener('paste', event => { if (event.clipboardData.files[0]) upload(event.clipboardData.files[0]); });
addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches('input, select');
  if (event.key === '/' && !typing) { event.preventDefault(); q.select(); return; }
  const tiles = [...results.querySelectorAll('.view')], item = event.target.closest('.hit');
  if (event.target === q && event.key === 'ArrowDown' && tiles.length) { event.preventDefault(); tiles[0].focus(); }
  if (!item || typing) return;
  const columns = getComputedStyle(results).gridTemplateColumns.split(' ').length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step) {
    event.preventDefault();
    tiles[Math.max(0, Math.min(tiles.length - 1, [...results.children].indexOf(item) + step))].focus();
  }
  if (event.key === 'm') item.querySelector('.like').click();
  if (event.key === 'c') item.querySelector('.copy').click();
});

about = await get('/about');
at('folder').append(...about.folders.map(name => element('option', { value: name, textContent: name })));
for (const name of ['since', 'until']) [at(name).min, at(name).max] = about.dates;
at('rerank').parentElement.hidden = !about.reranks;
results.classList.toggle('squash', about.squash);
at('hint').textContent = `${about.photos.toLocaleString('en')} photos in ${about.root}. Describe one, drop one, or ` +
  'combine: horse + stripes - grass.';
at('about').textContent = [about.checkpoint, about.stale].filter(Boolean).join('. ') + '.';
load();
"""
