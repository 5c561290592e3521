// Open a page of tools.report in chromium, in light and dark, 1280 and 400 pixels wide; run by hand (docs/contributing.md).
//
//     npm install --prefix /tmp/look playwright-core axe-core
//     NODE_PATH=/tmp/look/node_modules node tests/report/look.mjs runs/shapes/report.html /tmp/look
//
// It prints console errors, requests, sideways overflow and the faults that axe-core finds, writes a screenshot of each
// section, and walks the words of the first map by keyboard. Exit code 1: a serious fault, an error or a request.
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_PATH, 'x'));
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const [file, folder] = process.argv.slice(2).map(name => path.resolve(name));
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'] });
let faults = 0;
for (const colorScheme of ['light', 'dark']) {
  for (const width of [1280, 400]) {
    const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
    const page = await context.newPage(), errors = [], requests = [];
    page.on('console', message => { if (['error', 'warning'].includes(message.type())) errors.push(message.text()); });
    page.on('pageerror', error => errors.push(String(error)));
    page.on('request', request => { if (!/^data:/.test(request.url())) requests.push(request.url()); });
    await page.goto(`file://${file}`);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    const words = await page.$$('.words');
    if (words.length) {
      await (await words[0].$('button')).focus();
      const first = await page.textContent('.look output');
      await page.keyboard.press('ArrowRight');
      if (first === await page.textContent('.look output')) errors.push('the arrow key shows no other word');
    }
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run());
    const serious = violations.filter(fault => ['serious', 'critical'].includes(fault.impact));
    console.log(colorScheme, width, { errors, requests: requests.length - 1, overflow, serious: serious.length });
    for (const fault of violations) console.log('  ', fault.impact, fault.id, fault.nodes.length, fault.nodes[0].html);
    faults += errors.length + requests.length - 1 + serious.length;
    for (const section of await page.$$('main section')) {
      const name = await section.getAttribute('aria-labelledby');
      await section.screenshot({ path: path.join(folder, `${name}-${colorScheme}-${width}.png`) });
    }
    await context.close();
  }
}
await browser.close();
process.exit(faults ? 1 : 0);
