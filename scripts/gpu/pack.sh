#!/usr/bin/env bash
# Packs what scripts/gpu/accept.sh needs on a machine without network, in files below 16 MB.
#
#   scripts/gpu/pack.sh OUT [--no-wheels]
#
# OUT gets the last commit as el_attention.tar.gz and, for part C, wheels of fairseq and of what it
# imports but torch, for the Python that PYTHON names (default: .venv/bin/python). Files of 15 MB and
# more are cut; there:
#   cat el_attention.tar.gz* | tar -xz
#   for first in wheels/*.part-00; do cat "${first%00}"* >"${first%.part-00}"; done
#   scripts/gpu/accept.sh OUT --wheels wheels
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=${1:?pack: expected a folder}
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
mkdir -p "$out"
git archive --format=tar.gz -o "$out/el_attention.tar.gz" HEAD
if [ "${2:-}" != --no-wheels ]; then
  # What is installed beside fairseq, in the versions whose tests were run.
  mapfile -t wanted < <("$python" - <<'END'
import re
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

SKIPPED = re.compile(r"torch|torchaudio|triton|nvidia[-_].*|cuda[-_].*")
seen, waiting = {}, list(packages_distributions().get("fairseq", ()))
if not waiting:
    raise SystemExit("pack: fairseq is not installed in this environment")
while waiting:
    name = waiting.pop()
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen or SKIPPED.fullmatch(key):
        continue
    try:
        found = distribution(name)
    except PackageNotFoundError:
        continue
    seen[key] = found.version
    for requirement in found.requires or ():
        if "extra ==" not in requirement:
            waiting.append(re.match(r"[\w.-]+", requirement)[0])
print(*(f"{name}=={version}" for name, version in sorted(seen.items())), sep="\n")
END
  )
  "$python" -m pip wheel --disable-pip-version-check -q --no-deps --no-build-isolation \
    --wheel-dir "$out/wheels" "${wanted[@]}"
fi
find "$out" -type f -size +15000k -print0 | while IFS= read -r -d '' file; do
  split --bytes=15000K --numeric-suffixes "$file" "$file.part-"
  rm "$file"
done
du -ah "$out"
