"""What ``--help`` says beyond the arguments: a word on each command, and examples."""

from __future__ import annotations

TOP = """\
Structured prediction by energy minimisation: train, evaluate and use models that give each possible answer an
energy and predict the one with the least.
"""

TOP_EXAMPLES = """\
examples:
  ebmstruct run tasks/ner.yaml                      train, evaluate, write runs/ner and its report.html
  ebmstruct run tasks/ner.yaml --set train.epochs=3 --output runs/short
  ebmstruct predict runs/ner "Ada Lovelace lived in London."
  ebmstruct evaluate runs/ner my_data/test.conll
  ebmstruct generate runs/table --num 1000          new records like the training data, and how good they are
  ebmstruct latents runs/ica                        the latent variables behind records
  ebmstruct solve model.uai.gz --deadline 10        the assignment of least energy, with its bound
  ebmstruct verify result.json model.uai.gz         re-check what solve -o wrote
  ebmstruct explain tasks/ner.yaml                  which solver would answer, and why the others would not
  ebmstruct warm                                    compile everything now, so that first answers are quick
  ebmstruct plugins                                 what is installed

exit codes: 0 done; 1 an unexpected fault or an interruption; 2 something to correct, told in a sentence
"""

RUN_EXAMPLES = """\
examples:
  ebmstruct run tasks/ner.yaml
  ebmstruct run tasks/ner.yaml --set train.lr=0.05 --set task.data=my_data
  ebmstruct run tasks/ner.yaml --resume             go on with a run that was stopped
  ebmstruct run tasks/ner.yaml --force              replace a run that is there
  ebmstruct run tasks/ner.yaml --json --quiet       only the metrics, as JSON on standard output
  ebmstruct run runs/ner/config.yaml --output runs/again
"""

EVALUATE_EXAMPLES = """\
examples:
  ebmstruct evaluate runs/ner                       the test split of the run's own data once more
  ebmstruct evaluate runs/ner my_data --split dev
  ebmstruct evaluate runs/ner test.conll --json -o predictions.jsonl
"""

PREDICT_EXAMPLES = """\
examples:
  ebmstruct predict runs/ner "Ada Lovelace lived in London."
  ebmstruct predict runs/ner article.txt --json -o entities.jsonl
  cat article.txt | ebmstruct predict runs/ner -
"""

GENERATE_EXAMPLES = """\
examples:
  ebmstruct generate runs/table --num 10000 -o larger.csv        rows like those that the run was trained on
  ebmstruct generate runs/table --num 500 --given sex=F --given "rings=10"
  ebmstruct generate runs/digits --num 100 --given class=3 --seed 7 -o threes.png
  ebmstruct generate runs/names --num 20 --given prefix=An

Records are written in the format that the data came in. Beside them stands a report that holds them against records which
the model has not seen: can a classifier tell them apart, are all kinds there, are any copied from the training data.
"""

LATENTS_EXAMPLES = """\
examples:
  ebmstruct latents runs/ica                             of the run's own test data
  ebmstruct latents runs/mixture new_rows.csv -o latents.jsonl
  ebmstruct latents runs/boltzmann digits.npz --samples 20 --seed 1 -o latents.npz
"""

SOLVE_EXAMPLES = """\
examples:
  ebmstruct solve model.uai.gz                      the assignment of least energy, its bound, whether it is proven
  ebmstruct solve model.uai --evidence model.uai.evid --deadline 10 --json
  ebmstruct solve network.bif --query marginals
  ebmstruct solve model.uai --query logz --json
  ebmstruct solve model.uai --query sample --num-samples 100 --seed 1 --json
  ebmstruct solve grid.npz --solver dual_ascent -o result.json.gz

MODEL is a UAI file (.uai), a Bayesian network (.bif), both also as .gz, or a grid (.npz). Energies are -log of table
entries. Evidence is 'k variable state variable state ...', counted from 0, and used only where it is named.
exit codes: 0 answered, INFEASIBLE included; 1 a fault or an interruption; 2 something to correct, told in a sentence
"""

VERIFY_EXAMPLES = """\
examples:
  ebmstruct solve model.uai -o result.json
  ebmstruct verify result.json model.uai            the energy is recomputed, the bound proven from its witness
  ebmstruct verify result.json model.uai --evidence model.uai.evid --json

exit codes: 0 verified; 2 not verified, with the first thing that does not hold
"""

EXPLAIN_EXAMPLES = """\
examples:
  ebmstruct explain tasks/ner.yaml
  ebmstruct explain runs/ner "Ada Lovelace lived in London."
  ebmstruct explain model.uai.gz --evidence model.uai.evid
  ebmstruct explain model.uai.gz --query map --deadline 10      the choice that this solve would make
"""

WARM_EXAMPLES = """\
What is compiled is kept beside the installed package, or in the folder that NUMBA_CACHE_DIR names, and is used by every
later call. Without this, each question compiles what it needs when it is first asked, which takes seconds.

examples:
  ebmstruct warm
  NUMBA_CACHE_DIR=/var/cache/kernels ebmstruct warm --quiet
"""
