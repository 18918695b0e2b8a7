#!/bin/sh
[ "$(./calc '1+2*3')" = '1+2*3 = 7' ] && [ "$(./calc '2^3^2')" = '2^3^2 = 512' ] && ! ./calc '(' >/dev/null && echo "all checks passed"
