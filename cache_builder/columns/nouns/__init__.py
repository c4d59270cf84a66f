"""Make the nouns of proposals and their weights (docs/method/hd_ovd.md, section 3, eqs. 11 and 12).

cache.py      all columns, from a multimodal LLM or a word list
answers.py    the model's answers for the crops of proposals
word_list.py  read a word list; the best word of each proposal by the teacher
chosen.py     nouns by number, and their text embeddings
weights.py    fit the weight of a noun to the teacher
"""
