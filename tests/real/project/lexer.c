#include <ctype.h>
#include <stdlib.h>

#include "calc.h"
void lexer_start(Lexer* l, const char* text) {
  l->at = text;
  l->error = 0;
  lexer_next(l);
}
void lexer_next(Lexer* l) {
  while (isspace((unsigned char)*l->at)) l->at++;
  if (!*l->at) {
    l->now.kind = T_END;
    return;
  }
  if (isdigit((unsigned char)*l->at)) {
    char* end;
    l->now.kind = T_NUM;
    l->now.number = strtod(l->at, &end);
    l->at = end;
    return;
  }
  if (isalpha((unsigned char)*l->at)) {
    int n = 0;
    while (isalnum((unsigned char)*l->at) && n < 15) l->now.name[n++] = *l->at++;
    l->now.name[n] = 0;
    l->now.kind = T_NAME;
    return;
  }
  l->now.kind = T_OP;
  l->now.op = *l->at++;
}
