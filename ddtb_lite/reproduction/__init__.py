"""The paper's numbers and ours: which runs there are, what they take, what they gave, and what that says.

`grid` lists every `experiment`, `runner` runs one, `results` reads and writes what it leaves, `progress` and
`estimates` tell how far the list has come and what the rest takes, `claims` sets each printed score beside ours
and `table_s1` each printed size; `gaps` compares what quantization costs. `plan` chooses what a budget of time
buys, `bundle` packs results to be sent, `acceptance` scores again what others sent. `comparison` is several methods
with one recipe; `ratios` and `throughput` measure speed and memory, against the slow way of `naive`.
"""
