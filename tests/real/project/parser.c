#include "calc.h"
static double expression(Lexer* l);
static int op(Lexer* l, char c) { return l->now.kind == T_OP && l->now.op == c; }
static int take(Lexer* l, char c) {
  if (!op(l, c)) return 0;
  lexer_next(l);
  return 1;
}
static double atom(Lexer* l) {
  double v = 0;
  if (l->now.kind == T_NUM) {
    v = l->now.number;
    lexer_next(l);
    return v;
  }
  if (take(l, '-')) return -atom(l);
  if (take(l, '(')) {
    v = expression(l);
    if (!take(l, ')')) l->error = "')' expected";
    return v;
  }
  if (l->now.kind == T_NAME) {
    Token name = l->now;
    double a, b = 0;
    lexer_next(l);
    if (!take(l, '(')) {
      l->error = "'(' expected";
      return 0;
    }
    a = expression(l);
    if (take(l, ',')) b = expression(l);
    if (!take(l, ')')) l->error = "')' expected";
    if (!call(name.name, a, b, &v)) l->error = "unknown function";
    return v;
  }
  l->error = "a number expected";
  return 0;
}
static double factor(Lexer* l) {
  double v = atom(l);
  return take(l, '^') ? power(v, factor(l)) : v;
}
static double term(Lexer* l) {
  double v = factor(l);
  for (;;) {
    if (take(l, '*'))
      v *= factor(l);
    else if (take(l, '/'))
      v /= factor(l);
    else
      return v;
  }
}
static double expression(Lexer* l) {
  double v = term(l);
  for (;;) {
    if (take(l, '+'))
      v += term(l);
    else if (take(l, '-'))
      v -= term(l);
    else
      return v;
  }
}
double parse(Lexer* l) {
  double v = expression(l);
  if (!l->error && l->now.kind != T_END) l->error = "unexpected text";
  return v;
}
