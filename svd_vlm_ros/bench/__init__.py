# SPDX-License-Identifier: Apache-2.0
"""What selection, precision and reuse are worth on this machine, against transformers' `generate`.

`run.measure` fills one record: the machine's own limits (`machine`), answers to an image
(`answers`, with `stock` as the first row), further questions on the same image (`questions`), and
the selectors alone (`selectors`). `report` turns records into tables. Stock and engine run on one
set of weights in memory.
"""

STOCK = "stock"  # the row of transformers' generate; here, since tables need no torch
