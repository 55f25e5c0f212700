"""What the book's pages draw and repeat, so that their cells show what teaches and nothing else.

`figures` draws, `explorers` makes pictures that answer without a kernel, `tables` writes claims and runs as HTML,
`lab` is the quantizer that readers try out, `in_page` what runs a network in their browser, `points` lists what is
quantized, `notebook` holds the check lines and the live controls.
"""
