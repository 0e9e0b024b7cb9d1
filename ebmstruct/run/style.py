"""The style sheet of the report: light and dark, wide and narrow, screen and paper."""

from __future__ import annotations

CSS = """
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #1f2328; --soft: #5d656f; --faint: #e5e2da; --rule: #cfcbc0;
  --s0: #2b6cb0; --s1: #c4532a; --s2: #3f8a54; --s3: #7d5ba6; --s4: #a97f12; --s5: #5f7384;
  --heat: 43 108 176; --off: 196 83 42;
  --good: #2f7d4a; --warn: #9a6a00; --bad: #b3261e;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, "DejaVu Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e6e4df; --soft: #9ea6b0; --faint: #2b3038; --rule: #444b55;
    --s0: #6fa8e6; --s1: #ee8b60; --s2: #7bc08d; --s3: #b598dd; --s4: #dcb451; --s5: #9fb2c2;
  --heat: 111 168 230; --off: 238 139 96;
    --good: #7bc08d; --warn: #dcb451; --bad: #f2887f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans); }
main { max-width: 66rem; margin: 0 auto; padding: 2.6rem 1.25rem 4rem; }
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.9rem, 5vw, 2.7rem); margin: .15rem 0 .4rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.5rem; margin: 3.2rem 0 .5rem; padding-top: 1.1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.08rem; margin: 0 0 .4rem; }
.cases + h3, .figures + h3, .columns + h3 { margin-top: 1.6rem; }
p { margin: .35rem 0 .8rem; max-width: 44rem; }
a { color: var(--s0); text-underline-offset: .15em; }
.eyebrow { color: var(--soft); font-size: .82rem; letter-spacing: .04em; margin: 0; }
.lede { font-size: 1.08rem; color: var(--soft); margin-bottom: 1.1rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .9rem; margin: 1.2rem 0 0; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1rem;
  margin: 1.6rem 0 0; }
.card, .figure { background: var(--card); border: 1px solid var(--faint); border-radius: 10px;
  padding: 1.05rem 1.2rem; min-width: 0; margin: 0; }
.card .split { color: var(--soft); margin: 0; font-size: .9rem; }
.card .big { font-family: var(--serif); font-size: 3rem; line-height: 1.05; margin: .1rem 0 0;
  font-variant-numeric: lining-nums tabular-nums; letter-spacing: -.02em; }
.card .metric { margin: .1rem 0 .8rem; font-weight: 600; }
.card .split + .facts, .card .metric + .facts { border-top: 1px solid var(--faint); padding-top: .45rem; }
.facts { display: grid; grid-template-columns: minmax(6rem, 1fr) auto; gap: .12rem 1rem; margin: 0; font-size: .93rem; }
.facts dt { color: var(--soft); overflow-wrap: break-word; }
.facts dd { margin: 0; text-align: right; font-variant-numeric: lining-nums tabular-nums; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  margin: 1rem 0; align-items: start; }
.pixels { image-rendering: pixelated; display: block; }
.figure.wide { grid-column: 1 / -1; }
figcaption, .note { color: var(--soft); font-size: .9rem; margin: .5rem 0 0; max-width: 44rem; }
svg { display: block; width: 100%; height: auto; max-width: 40rem; font-family: var(--sans); }
.grid { stroke: var(--faint); } .base { stroke: var(--rule); }
.tick, .axis, .name { font-size: 12px; fill: var(--soft); font-variant-numeric: lining-nums tabular-nums; }
.name { fill: var(--ink); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.reach { fill: transparent; }
.bar.many { opacity: .62; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); } .line.s4 { stroke: var(--s4); } .line.s5 { stroke: var(--s5); }
.bar.s0, .dot.s0 { fill: var(--s0); } .bar.s1, .dot.s1 { fill: var(--s1); } .bar.s2, .dot.s2 { fill: var(--s2); }
.bar.s3, .dot.s3 { fill: var(--s3); } .bar.s4, .dot.s4 { fill: var(--s4); } .bar.s5, .dot.s5 { fill: var(--s5); }
.bar:hover { filter: brightness(1.15); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .86rem; margin: 0 0 .4rem; color: var(--soft); }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .4em; }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); } i.s2 { background: var(--s2); }
i.s3 { background: var(--s3); } i.s4 { background: var(--s4); } i.s5 { background: var(--s5); }
.headline.small .big { font-size: 2.2rem; } .card .beside { color: var(--soft); font-size: .86rem; margin: .3rem 0 0; }
.verdicts { list-style: none; margin: 1.2rem 0; padding: 0; max-width: 54rem; }
.verdicts li { display: grid; grid-template-columns: 3.2rem 1fr; gap: .6rem; padding: .4rem 0;
  border-bottom: 1px solid var(--faint); }
.scroll { overflow-x: auto; margin: .3rem 0 0; }
table { border-collapse: collapse; font-size: .92rem; min-width: 40%; }
th, td { text-align: left; padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--faint); vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .84rem; vertical-align: bottom; }
thead th { border-bottom: 1px solid var(--rule); }
td { overflow-wrap: break-word; max-width: 34rem; white-space: pre-line; }
th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; font-variant-numeric: lining-nums tabular-nums; white-space: nowrap; }
.matrix td, .matrix th { padding: .3rem .6rem; }
.matrix td.n { border: 1px solid var(--card); background: rgb(var(--heat) / calc(var(--share, 0) * .75)); }
.matrix td.off { background: rgb(var(--off) / calc(var(--share, 0) * .6)); }
.cases { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: .8rem;
  margin: .8rem 0 0; align-items: start; }
.case { background: var(--card); border: 1px solid var(--faint); border-left: 3px solid var(--s1); border-radius: 8px;
  padding: .8rem 1rem; min-width: 0; }
.case dl { display: grid; grid-template-columns: minmax(6.5rem, auto) 1fr; gap: .25rem 1rem; margin: 0;
  font-size: .94rem; }
.case table { font-size: .86rem; min-width: 0; } .case .scroll { margin: 0; }
.case th, .case td { border: 0; padding: .06rem .9rem .06rem 0; }
.case dt { color: var(--soft); } .case dd { margin: 0; min-width: 0; overflow-wrap: anywhere; white-space: pre-line; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
pre { background: var(--card); border: 1px solid var(--faint); border-radius: 8px; padding: .9rem 1rem;
  overflow-x: auto; font: .85rem/1.5 var(--mono); margin: .4rem 0; }
code { font-family: var(--mono); font-size: .88em; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--s0); font-size: .93rem; }
.wraps td { overflow-wrap: anywhere; min-width: 6rem; } .wraps td:first-child { white-space: nowrap; }
.told td:last-child { min-width: 17rem; }
.scroll + h3, .wraps + h3 { margin-top: 1.4rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2.5rem; }
.empty { color: var(--soft); font-style: italic; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--soft);
  font-size: .86rem; }
@media (max-width: 34rem) {
  main { padding: 1.5rem .9rem 3rem; } .card, .figure { padding: .9rem .95rem; }
  .case dl { grid-template-columns: 1fr; gap: 0; } .case dd { margin-bottom: .45rem; }
  .figure svg .tick, .figure svg .axis, .figure svg .name { font-size: 14px; }
}
@media print {
  body { background: #fff; font-size: 11pt; } .card, .figure, .case { break-inside: avoid; } nav { display: none; }
}
"""
