#include <stdio.h>

#include "calc.h"
void report(const char* text, double value, const char* error) {
  if (error)
    printf("%s: %s\n", text, error);
  else
    printf("%s = %g\n", text, value);
}
