#!/bin/sh
# headers.sh ROOT BUILD: every header compiles alone.
cd "$1" || exit 2
git ls-files '*.h' | grep -v -e '^tests/' -e '\.def\.h$' -e '^sentry/platform/stub/' |
  xargs -P "$(nproc)" -I{} sh -c '
    g++ -std=gnu++20 -fsyntax-only -I. -I"$1/generated" -w -include "$2" -x c++ /dev/null || { echo "$2 does not compile alone"; exit 1; }' \
    sh "$2" {} || exit 1
echo "every header compiles alone"
