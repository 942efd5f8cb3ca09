"""How ``report.html`` looks: one column, light and dark, on a laptop and on a phone."""

STYLE = """
:root {
  color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --page: #fff; --card: #f6f8fa;
  --line: #d1d9e0; --accent: #005a8f; --warn: #fff4d6; --warn-line: #b87900; --shade: #0003;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6edf3; --soft: #9aa5b1; --page: #12161b; --card: #1b2129;
    --line: #343c46; --accent: #6cb8ea; --warn: #33290e; --warn-line: #d9a520; --shade: #fff4;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  color: var(--text); background: var(--page);
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 0 0 .8rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
section { margin-top: 2.4rem; }
a { color: var(--accent); }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; padding: 0; margin: 1.2rem 0 0; }
nav a { display: inline-block; padding: .3rem 0; }
.lead { color: var(--soft); }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  list-style: none; padding: 0; margin: 1.4rem 0;
}
.figures li {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem .9rem;
  font-size: .875rem; line-height: 1.35; color: var(--soft);
}
.figures b { display: block; font-size: 1.5rem; line-height: 1.25; color: var(--accent); margin-bottom: .2rem; }
.note { background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: .3rem; padding: .3rem 1rem; }
.note p { max-width: none; }
.scroll { overflow-x: auto; margin: 1rem 0; max-width: 100%; width: fit-content; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; color: var(--soft); }
td, th { padding: .35rem 1.3rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; }
td { white-space: nowrap; }
td:last-child, th:last-child { padding-right: .4rem; }
.n { text-align: right; }
.plots {
  display: grid; gap: 1rem; margin: 1rem 0; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr));
}
figure { margin: 1rem 0; padding: .7rem; background: #fff; border: 1px solid var(--line); border-radius: .6rem; }
.plots figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figure.latency, figure.roofline, figure.server { max-width: 46rem; }
.zoom, .hint { display: none; }
figcaption { color: #4a525b; font-size: .85rem; line-height: 1.4; padding: .5rem .2rem 0; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.2rem; margin: .8rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 40rem) {
  body { padding: 1.2rem 1rem 3rem; }
  h1 { font-size: 1.55rem; }
  .figures { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .figures li { padding: .65rem .7rem; }
  .figures b { font-size: 1.25rem; }
  .figures li:last-child:nth-child(odd) { grid-column: 1 / -1; }
  figure { padding: .3rem; position: relative; overflow-x: auto; }
  .scroll {
    background: linear-gradient(to left, var(--page) 40%, transparent) right / 2rem 100% local no-repeat,
      linear-gradient(to left, var(--shade), transparent) right / .8rem 100% scroll no-repeat;
  }
  td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); }
  td:first-child:not(.n) { white-space: normal; min-width: 6.8rem; }
  td, th { padding-right: .9rem; }
  .zoom { display: block; position: absolute; opacity: 0; }
  .zoom:checked + label img { width: 52rem; }
  .zoom:focus-visible + label { display: block; outline: 2px solid var(--accent); }
  .hint { display: block; color: #4a525b; font-size: .75rem; padding: .2rem .2rem 0; position: sticky; left: 0; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; }
}
@media (prefers-color-scheme: dark) { figure { filter: brightness(.92); } }
@media print { body { max-width: none; } section, figure { break-inside: avoid; } nav { display: none; } }
"""
