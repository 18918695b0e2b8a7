#include "calc.h"
int main(int argc, char** argv) {
  int bad = 0;
  for (int i = 1; i < argc; i++) {
    Lexer l;
    lexer_start(&l, argv[i]);
    double value = parse(&l);
    report(argv[i], value, l.error);
    bad |= l.error != 0;
  }
  return bad;
}
