#!/bin/sh
# format.sh ROOT: every source is formatted (make format mends it).
cd "$1" || exit 2
git ls-files '*.cc' '*.h' | grep -v '\.def\.h$' | xargs clang-format --dry-run -Werror 2>&1 | grep -E 'error|warning' | sed 's/:.*//' | sort | uniq -c |
  { if read -r first; then echo "not formatted:"; echo "$first"; cat; exit 1; fi; }
