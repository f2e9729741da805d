// Pages for users come before those about the inside of emcache; see searchtools.js of Sphinx.
var Scorer = {
  score: ([docname, , , , score]) =>
    /^(design\/|changelog|releasing|contributing|adding-a-command)/.test(docname)
      ? score / 10
      : score,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
