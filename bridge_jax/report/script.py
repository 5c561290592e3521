"""The script of a report. The page carries it, and allows no other by its hash. Without it all values are in tables."""

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
const shown = new Map();  // figure -> the button whose map it shows
const show_map = button => {
  const figure = button.closest('figure'), svg = figure.querySelector('.frame svg');
  const [peak, levels] = button.dataset.maps.split(' ')[document.querySelector('.maps input:checked').value].split(':');
  const side = Math.round(Math.sqrt(levels.length));
  if (!svg.firstChild) {
    for (let i = 0; i < levels.length; i++) {
      const rect = document.createElementNS(svg.namespaceURI, 'rect');
      for (const [name, value] of Object.entries({ x: i % side, y: Math.floor(i / side), width: 1.02, height: 1.02 })) {
        rect.setAttribute(name, value);
      }
      svg.append(rect);
    }
  }
  let top = 0;
  [...levels].forEach((level, i) => {
    svg.children[i].setAttribute('fill-opacity', (0.8 * (1 - parseInt(level, 36) / 35)).toFixed(3));
    if (parseInt(level, 36) > parseInt(levels[top], 36)) top = i;
  });
  figure.querySelectorAll('.words button').forEach(other => other.classList.toggle('on', other === button));
  figure.querySelector('output').textContent =
    `${button.textContent}: most at row ${Math.floor(top / side) + 1}, column ${top % side + 1}, ${peak} %`;
  shown.set(figure, button);
};
for (const words of document.querySelectorAll('.words')) {
  const buttons = [...words.children], chosen = document.querySelector('.maps input:checked').value;
  const peaks = buttons.map(button => parseFloat(button.dataset.maps.split(' ')[chosen]));
  if (buttons.length) show_map(buttons[peaks.indexOf(Math.max(...peaks))]);
  buttons.forEach((button, i) => {
    for (const name of ['pointerenter', 'focus', 'click']) button.addEventListener(name, () => show_map(button));
    button.addEventListener('keydown', event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], next = step && buttons[i + step];
      if (next) { button.tabIndex = -1; next.tabIndex = 0; next.focus(); event.preventDefault(); }
    });
  });
}
for (const input of document.querySelectorAll('.maps input')) {
  input.addEventListener('change', () => shown.forEach(show_map));
}
"""
