"""The proposals table: class-agnostic regions of the images, best first (docs/method/hd_ovd.md, section 3).

    provenance.py     who made proposals, and what the maker had seen
    select.py         from a detector's boxes of an image to its row: clip, filter, suppress, rank
    table.py          open the table that the column `proposals/boxes` holds
    results_file.py   read boxes from a COCO results file
    nouns.py          open the nouns of proposals
    noun_phrases.py   from an answer to a noun
    noun_weight.py    the weight of a noun, and the fit of its constants
    leak.py           refuse makers that saw novel classes, under the open-vocabulary protocols

`columns/proposals.py` makes the column; the detector reads the table.
"""

from cckt.cache_builder.proposals.leak import evidence, find_leak, is_guarded, provenances_of, require_no_leak
from cckt.cache_builder.proposals.noun_weight import NounWeight, fit_noun_weight, noun_weight
from cckt.cache_builder.proposals.nouns import Nouns, open_nouns
from cckt.cache_builder.proposals.provenance import Provenance
from cckt.cache_builder.proposals.select import Selection
from cckt.cache_builder.proposals.table import Proposals, list_proposals, open_proposals

__all__ = [
    "NounWeight",
    "Nouns",
    "Proposals",
    "Provenance",
    "Selection",
    "evidence",
    "find_leak",
    "fit_noun_weight",
    "is_guarded",
    "list_proposals",
    "noun_weight",
    "open_nouns",
    "open_proposals",
    "provenances_of",
    "require_no_leak",
]
