"""What the book's pages draw and repeat, so that their cells show what teaches and nothing else.

`figures` draws, `explorers` makes pictures that answer without a kernel, `stepping` sums to step through, `lab` is the
quantizer that readers try out, `resting` plays bounds that learn, `in_page` is what runs a network in their browser,
`reproducing` what is seen of a reproduction while it runs, `tables` writes claims and runs as HTML, `claim_rows` the
ledger, `points` lists what is quantized. `notebook` holds what most
pages begin with: `teacher_of` and `student_of` give networks that come with the package or are trained on the page,
`shipped` the former alone; `published` says whether a page runs with the parameters its text was written for, `check`
states a result, `source` and `listing` show code of the package, `interact` is for live controls.
"""
