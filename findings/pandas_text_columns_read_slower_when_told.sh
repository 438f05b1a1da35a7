#!/bin/sh
# pandas reads a CSV file of texts several times slower once it is told that the columns are text.
#
# Guess: `dtype=str` saves work, because nothing has to be guessed. It is also the usual advice for files whose classes
# are codes such as 01, which would become numbers.
# Seen with pandas 3.1.1 and pyarrow 26.0.1: without `dtype`, a column in which inference finds text becomes Arrow strings
# directly. With `dtype=str` every cell first becomes a Python object. The same file takes about four times the processor
# time, with the same result. `keep_default_na=False` or `na_filter=False`, also needed for cells as they are, cost nothing.
# Exits 0 if it is so (more than twice the time), 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pandas==3.1.1 pyarrow==26.0.1 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import time

import pandas as pd

path = sys.argv[1] + "/texts.csv"
with open(path, "w") as file:
    file.write("text,label\n")
    for i in range(200_000):
        file.write(f"the central bank has raised its rate by another half of a point and stocks fell {i},Business\n")


def seconds(**options):
    found = []
    for _ in range(5):
        started = time.process_time()
        table = pd.read_csv(path, **options)
        found.append(time.process_time() - started)
    return min(found), table


guessed, first = seconds()
told, second = seconds(dtype=str)
as_they_are, third = seconds(keep_default_na=False, na_filter=False)
assert first.equals(second) and first.equals(third) and str(first["text"].dtype) == "str"
print(f"columns guessed: {guessed:.3f} s; dtype=str: {told:.3f} s ({told / guessed:.1f} times); "
      f"no missing values: {as_they_are:.3f} s ({as_they_are / guessed:.1f} times)")
sys.exit(told < 2 * guessed)
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
